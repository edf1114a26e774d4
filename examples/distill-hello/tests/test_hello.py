"""The conformance kit, and the value on a case worked by hand."""

from __future__ import annotations

import pytest
import torch
from distill_hello.losses import total_variation


@pytest.mark.distill_plugin("distill-hello")
def test_conformance(conformance_case):
    conformance_case.run()


def test_value():
    teacher = torch.tensor([[0.5, 0.3, 0.2]]).log()
    student = torch.tensor([[0.2, 0.3, 0.5]]).log()
    torch.testing.assert_close(total_variation(teacher, student), torch.tensor([0.3]))
