"""Hard cross-entropy against torch's own, with label smoothing, z-loss and ignored rows."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from distill_core import ops
from tests.objectives.conftest import Rows, build, info


def run(logits_NV: Tensor, labels_N: Tensor, **options: float) -> tuple[Tensor, Tensor]:
    objective = build("cross-entropy", **options)
    assert objective.temperatures(0, 1) == (1.0,)
    logits_NV = logits_NV.clone().requires_grad_(True)
    ids_NK = torch.zeros(len(logits_NV), 0, dtype=torch.long)
    support = ops.support_logits(logits_NV, ids_NK, labels_N=labels_N, extras=objective.extras)
    value_N = objective.rows(support, None, info(len(logits_NV)))
    (gradient_NV,) = torch.autograd.grad(value_N.sum(), logits_NV)
    return value_N.detach(), gradient_NV


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.9])
@pytest.mark.parametrize("z_loss", [0.0, 1e-2])
def test_equals_torch(smoothing: float, z_loss: float) -> None:
    logits_NV = torch.from_numpy(Rows(7, 31, 3).student_NV)
    labels_N = torch.tensor([0, 30, 4, 4, 17, 2, 9])
    value_N, gradient_NV = run(logits_NV, labels_N, label_smoothing=smoothing, z_loss=z_loss)
    dense_NV = logits_NV.clone().requires_grad_(True)
    expected_N = torch.nn.functional.cross_entropy(dense_NV, labels_N, label_smoothing=smoothing, reduction="none")
    expected_N = expected_N + z_loss * torch.logsumexp(dense_NV, 1) ** 2
    (expected_NV,) = torch.autograd.grad(expected_N.sum(), dense_NV)
    torch.testing.assert_close(value_N, expected_N.detach(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(gradient_NV, expected_NV, rtol=1e-10, atol=1e-12)


def test_label_smoothing_needs_the_mean_logit() -> None:
    objective = build("cross-entropy", label_smoothing=0.1)
    labels_N = torch.tensor([1])
    support = ops.support_logits(torch.zeros(1, 5), torch.zeros(1, 0, dtype=torch.long), labels_N=labels_N)
    with pytest.raises(ValueError, match="mean"):
        objective.rows(support, None, info(1))
    assert build("cross-entropy").extras == ()


def test_needs_no_teacher() -> None:
    from distill_core.registry import get_registry

    entry = get_registry().find("objective", "cross-entropy")
    assert entry.component.needs.signals == frozenset()
