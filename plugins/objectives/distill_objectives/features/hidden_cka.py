"""Hidden states of the student with the same similarities between rows as the teacher's, at any widths.

Legend: N compared positions, n rows of a group, S student width, D teacher width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from distill_core.types import TokenBatch
from distill_objectives.features.grouped import GroupedObjective
from distill_objectives.features.positions import Positions


class HiddenCKA(GroupedObjective):
    """``1 - CKA(X, Y)`` with linear centred kernel alignment (arXiv 1905.00414, section 3) over the rows of a group.

    ``CKA = |Y^T X|_F^2 / (|X^T X|_F |Y^T Y|_F)`` with the columns of X [n, S] and Y [n, D] centred: 1 where one is the
    other up to a rotation and a scale, at any two widths, so nothing is projected. Rows are weighted: the mean is the
    weighted one and each row is scaled by the root of its weight.

    It compares rows with each other, so by nature it is a number per group: with ``within: batch`` a micro-batch of
    other sequences gives another value, and gradient accumulation averages micro-batches (each counting as its rows);
    with ``within: sequence`` it is a sum over sequences and independent of how they are cut. The estimate from few rows
    in many dimensions is too close to 1 (bias of the plain estimator): prefer many rows.

    Args:
        options: ``layers``, ``within``, ``positions``.

    Raises:
        SignalError: the teacher gives no hidden states, a layer is missing.

    >>> x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, 3.0]])
    >>> round(linear_cka(x, 2 * x @ torch.tensor([[0.0, 1.0], [-1.0, 0.0]]), torch.ones(3)).item(), 5)
    1.0
    """

    name = "hidden-cka"
    least_rows = 2

    def compare(self, student_NS: Tensor, teacher_ND: Tensor, at: Positions, batch: TokenBatch, pair: int) -> Tensor:
        total = student_NS.sum() * 0
        for group in self.groups(at, batch):
            alignment = linear_cka(student_NS[group.index_n], teacher_ND[group.index_n], group.weights_n)
            total = total + group.total * (1 - alignment)
        return total.to(student_NS.dtype)


def linear_cka(x_nS: Tensor, y_nD: Tensor, weights_n: Tensor) -> Tensor:
    """Linear CKA of n weighted rows, a scalar from 0 to 1; 0 where one side is constant.

    Through [n, n] Gram matrices where rows are fewer than dimensions, else through [S, D] products: the same number.
    """
    x_nS, y_nD = _centred(x_nS, weights_n), _centred(y_nD, weights_n)
    if len(x_nS) < max(x_nS.shape[1], y_nD.shape[1]):
        gram_x_nn, gram_y_nn = x_nS @ x_nS.T, y_nD @ y_nD.T
        cross, norms = (gram_x_nn * gram_y_nn).sum(), gram_x_nn.norm() * gram_y_nn.norm()
    else:
        cross = (x_nS.T @ y_nD).square().sum()
        norms = (x_nS.T @ x_nS).norm() * (y_nD.T @ y_nD).norm()
    return cross / norms.clamp_min(torch.finfo(norms.dtype).tiny)


def _centred(x_nS: Tensor, weights_n: Tensor) -> Tensor:
    """Rows minus their weighted mean, times the root of their weight, scaled to unit norm (CKA does not see it)."""
    weights_n1 = weights_n.to(x_nS.dtype)[:, None]
    mean_S = (weights_n1 * x_nS).sum(dim=0) / weights_n1.sum().clamp_min(torch.finfo(x_nS.dtype).tiny)
    scaled_nS = weights_n1.sqrt() * (x_nS - mean_S)
    return scaled_nS / scaled_nS.norm().clamp_min(torch.finfo(x_nS.dtype).tiny)
