"""Decoupled KD: the label against the rest, and the rest among itself, each with a weight of its own.

Legend: n rows, K support size; column K of a [n, K+1] tensor is the tail.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from distill_core import divergence
from distill_core.simplex import DivergenceObjective
from distill_core.types import LOG_FLOOR, RowInfo, SupportLogits
from distill_objectives.group_kl import group_kl
from distill_objectives.options import DecoupledKDOptions


@divergence(lower_bound=False)
def decoupled_kd(
    teacher_logp: Tensor, student_logp: Tensor, *, column: Tensor, alpha: float = 1.0, beta: float = 8.0
) -> Tensor:
    """Decoupled knowledge distillation, in nat (DKD, arXiv 2203.08679)::

        alpha KL([p_y, 1 - p_y], [q_y, 1 - q_y]) + beta KL(p' , q')

    with y the label's outcome and p', q' the distributions over all other outcomes. ``alpha = 1, beta = 1 - p_y`` would
    be forward KL; a constant beta keeps the other tokens' part where the teacher is sure of the label. The paper's
    alpha is 1; its beta is tuned for each pair, 8 in much of CIFAR-100 (temperature 4), 0.5 on ImageNet
    (temperature 1). Its T^2 is not in here: set the objective's ``weight``.

    Where a label is none of the teacher's K tokens, its outcome is the tail, the one that holds it; on rows whose label
    is in the support the value is at most that on the whole vocabulary, on the others there is no such order.
    A student probability of exactly 0 counts as 1e-30.

    Args:
        teacher_logp: [n, K+1] log-probabilities, the tail last.
        student_logp: [n, K+1] log-probabilities, the tail last.
        column: [n] int64 column of the outcome that holds the label.
        alpha: weight of the label's part, >= 0.
        beta: weight of the other outcomes' part, >= 0.

    >>> import torch
    >>> p, q = torch.tensor([[0.5, 0.3, 0.2]]).log(), torch.tensor([[0.5, 0.4, 0.1]]).log()
    >>> round(decoupled_kd(p, q, column=torch.tensor([0]), beta=2.0).item(), 4)
    0.2093
    """
    student_logp = student_logp.masked_fill(torch.isneginf(student_logp), LOG_FLOOR)
    outcomes = torch.arange(teacher_logp.shape[-1], device=column.device)
    target_nK1 = outcomes == column[:, None]
    target = group_kl(teacher_logp, student_logp, target_nK1)
    others = group_kl(teacher_logp, student_logp, ~target_nK1)
    return alpha * (target.term() + others.term()) + beta * others.inside_n


def label_column(ids_nK: Tensor, labels_n: Tensor) -> Tensor:
    """[n] int64 column of the label in the support, K (the tail) where it is not there.

    >>> import torch
    >>> label_column(torch.tensor([[7, 3], [4, -1]]), torch.tensor([3, 9])).tolist()
    [1, 2]
    """
    found_nK1 = torch.nn.functional.pad(ids_nK == labels_n[:, None], (0, 1), value=True)
    return found_nK1.int().argmax(-1)


class DecoupledKD(DivergenceObjective):
    """``decoupled_kd`` with the labels of the rows.

    >>> DecoupledKD(DecoupledKDOptions(beta=2.0)).options.alpha
    1.0
    """

    def __init__(self, options: DecoupledKDOptions) -> None:
        super().__init__(decoupled_kd, options)

    def keywords(self, support: SupportLogits, rows: RowInfo) -> dict[str, Any]:
        return {**super().keywords(support, rows), "column": label_column(support.ids_NK, rows.labels_N)}
