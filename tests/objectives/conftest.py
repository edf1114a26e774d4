"""What the objective tests share: awkward teacher and student logits, and building by registered name."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from distill_core import ops
from distill_core.registry import get_registry
from distill_core.types import RowInfo, RowTarget


class Rows:
    """Peaked, signed logits of N rows over V tokens, and a support of K ids per row with padding in some."""

    def __init__(self, n: int, v: int, k: int, *, seed: int = 0, padding: bool = True) -> None:
        generator = np.random.default_rng(seed)
        self.teacher_NV = generator.normal(size=(n, v)) * 3.0
        self.student_NV = self.teacher_NV * 0.4 + generator.normal(size=(n, v)) * 2.0
        order = np.argsort(-self.teacher_NV, axis=1)[:, :k]
        self.ids_NK: NDArray[np.int64] = np.take_along_axis(order, np.argsort(generator.random((n, k)), axis=1), axis=1)
        if padding and k > 1:
            self.ids_NK[::3, -1] = -1

    def target(self, temperatures: tuple[float, ...] = (1.0,)) -> RowTarget:
        """The exact target of the teacher on the support, with a constant added to every row."""
        return exact_target(torch.from_numpy(self.teacher_NV), torch.from_numpy(self.ids_NK), temperatures, shift=2.5)


def exact_target(
    logits_NV: Tensor, ids_NK: Tensor, temperatures: tuple[float, ...] = (1.0,), *, shift: float = 0.0
) -> RowTarget:
    logits_NV = logits_NV + shift
    outside_NV = torch.ones(logits_NV.shape, dtype=torch.bool)
    for n, ids_K in enumerate(ids_NK.tolist()):
        outside_NV[n, [i for i in ids_K if i >= 0]] = False
    rest_NV = logits_NV.masked_fill(~outside_NV, -torch.inf)
    return RowTarget(
        kind="exact",
        ids_NK=ids_NK,
        temperatures=temperatures,
        logits_NK=logits_NV.gather(1, ids_NK.clamp_min(0)),
        tail_NM=torch.stack([torch.logsumexp(rest_NV / t, dim=1) for t in temperatures], dim=1),
    )


def info(n: int, *, step: int = 0, total_steps: int = 1, labels_N: Tensor | None = None) -> RowInfo:
    zeros_N = torch.zeros(n, dtype=torch.long)
    return RowInfo(zeros_N if labels_N is None else labels_N, zeros_N, zeros_N, step, total_steps)


def build(name: str, **options: Any) -> Any:
    """An objective by registered name, as a run builds it."""
    return get_registry().build("objective", {"use": name, **options})


def value_and_gradient(
    objective: Any,
    logits_NV: Tensor,
    target: RowTarget,
    *,
    temperatures: tuple[float, ...] = (1.0,),
    labels_N: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """[N] values through the op, and the gradient of their sum in the student's logits; labels are 0 if not given."""
    logits_NV = logits_NV.detach().clone().requires_grad_(True)
    target = objective.view(target)
    support = ops.support_logits(logits_NV, target.ids_NK, temperatures=temperatures)
    value_N = objective.rows(support, target, info(len(logits_NV), labels_N=labels_N))
    (gradient_NV,) = torch.autograd.grad(value_N.sum(), logits_NV)
    return value_N.detach(), gradient_NV


@pytest.fixture
def rows() -> Rows:
    return Rows(7, 53, 6)
