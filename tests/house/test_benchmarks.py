"""What `make bench` compares computes the same loss and gradients; nothing is timed here."""

from __future__ import annotations

import pytest
import torch

from benchmarks.rivals import RIVALS, Problem, Size, step

SIZE = Size(rows=13, vocabulary=301, hidden=7, support=5)


@pytest.mark.parametrize("rival", RIVALS)
def test_rivals_agree(rival: str) -> None:
    problem, baseline = Problem.random(SIZE), Problem.random(SIZE)
    expected = step("plain torch", baseline)
    assert expected > 1
    assert step(rival, problem) == pytest.approx(expected, rel=1e-5)
    for own, other in ((problem.hidden_ND, baseline.hidden_ND), (problem.weight_VD, baseline.weight_VD)):
        assert own.grad is not None and other.grad is not None
        # Sums of 13 fp32 values in another order: rounding alone.
        torch.testing.assert_close(own.grad, other.grad, rtol=1e-4, atol=1e-5)


def test_supports_are_unique_in_a_row() -> None:
    assert all(row.unique().numel() == SIZE.support for row in Problem.random(SIZE).ids_NK)
