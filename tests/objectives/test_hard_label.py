"""Cross-entropy with the teacher's decision against torch's own, on whole, cut and padded supports."""

from __future__ import annotations

import pytest
import torch

from distill_core import ops
from distill_core.types import RowTarget
from tests.objectives.conftest import Rows, build, info


@pytest.mark.parametrize("k", [31, 5, 1])
def test_equals_torch_with_the_teachers_argmax(k: int) -> None:
    rows = Rows(7, 31, 3)
    teacher_NV, student_NV = torch.from_numpy(rows.teacher_NV), torch.from_numpy(rows.student_NV)
    top = ops.topk_logits(teacher_NV.float(), k)
    ids_NK = torch.cat([top.ids_NK.long(), torch.full((7, 2), -1)], dim=1)
    logits_NK = torch.cat([top.logits_NK, torch.full((7, 2), 1e9)], dim=1)  # padding is never read
    target = RowTarget("exact", ids_NK, (1.0,), logits_NK=logits_NK, tail_NM=top.tail_NT)
    objective = build("hard-label")
    logits_NV = student_NV.clone().requires_grad_(True)
    support = ops.support_logits(logits_NV, ids_NK, labels_N=torch.zeros(7, dtype=torch.long))
    value_N = objective.rows(support, target, info(7))
    dense_NV = student_NV.clone().requires_grad_(True)
    expected_N = torch.nn.functional.cross_entropy(dense_NV, teacher_NV.argmax(1), reduction="none")
    torch.testing.assert_close(value_N, expected_N, rtol=1e-12, atol=1e-12)
    (gradient_NV,) = torch.autograd.grad(value_N.sum(), logits_NV)
    (expected_NV,) = torch.autograd.grad(expected_N.sum(), dense_NV)
    torch.testing.assert_close(gradient_NV, expected_NV, rtol=1e-10, atol=1e-12)


def test_a_sample_has_no_decision() -> None:
    ids = torch.tensor([[1, 2]])
    target = RowTarget("sampled", ids, (1.0,), weights_NK=torch.tensor([[0.5, 0.5]]), entropy_N=torch.zeros(1))
    support = ops.support_logits(torch.zeros(1, 4), ids, labels_N=torch.tensor([0]))
    with pytest.raises(ValueError, match="method: topk"):
        build("hard-label").rows(support, target, info(1))
