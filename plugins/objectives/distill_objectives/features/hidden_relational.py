"""Rows of the student as far from each other, and at the same angles, as those of the teacher.

Legend: N compared positions, n rows of a group, S student width, D teacher width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from distill_core.types import TokenBatch
from distill_objectives.features.grouped import GroupedObjective
from distill_objectives.features.positions import Positions

COINCIDENT = 1e-6
"""Rows closer than this share of the mean distance are one point: no angle has a direction there."""


class HiddenRelational(GroupedObjective):
    """Relational knowledge distillation by distance and by angle (arXiv 1904.05068, section 3.2).

    ``w_d mean_ij huber(d_student(i, j) - d_teacher(i, j)) + w_a mean_ijk huber(cos_student(i, j, k) - cos_teacher(i, j,
    k))`` with ``d(i, j)`` the distance of two rows over the mean distance of the group, ``cos(i, j, k)`` the cosine of
    the angle at j, and the Huber function of width 1. Pairs and triplets are of distinct rows, weighted by the product
    of the rows' weights. Indifferent to rotation, translation and scale of either side, so nothing is projected.

    It compares rows with each other: with ``within: batch`` those of the micro-batch, and gradient accumulation
    averages micro-batches (each counting as its rows); ``within: sequence`` is a sum over sequences. Of a group at most
    ``max_rows`` rows are drawn. Rows that coincide (the first token of every sequence) have no angle and are left out
    of it.

    Args:
        options: ``layers``, ``distance_weight``, ``angle_weight``, ``within``, ``max_rows``, ``positions``.

    Raises:
        SignalError: the teacher gives no hidden states, a layer is missing.

    >>> x = torch.tensor([[0.0, 0.0], [3.0, 0.0], [0.0, 4.0]])
    >>> distance_gap(x, 5 * x + 1, torch.ones(3)).item() < 1e-12
    True
    """

    name = "hidden-relational"
    least_rows = 3

    def compare(self, student_NS: Tensor, teacher_ND: Tensor, at: Positions, batch: TokenBatch, pair: int) -> Tensor:
        total = student_NS.sum() * 0
        limit = self.options.max_rows
        for group in self.groups(at, batch, max_rows=limit):
            x_nS, y_nD = student_NS[group.index_n], teacher_ND[group.index_n]
            weights_n = group.weights_n.to(x_nS.dtype)
            if self.options.distance_weight:
                gap = distance_gap(x_nS, y_nD, weights_n)
                total = total + group.total * self.options.distance_weight * gap
            if self.options.angle_weight:
                gap = angle_gap(x_nS, y_nD, weights_n)
                total = total + group.total * self.options.angle_weight * gap
        return total.to(student_NS.dtype)


def distance_gap(x_nS: Tensor, y_nD: Tensor, weights_n: Tensor) -> Tensor:
    """Weighted mean over pairs of the Huber difference of normalised distances."""
    weights_nn = _pair_weights(weights_n)
    difference_nn = _distances(x_nS, weights_nn)[0] - _distances(y_nD, weights_nn)[0]
    return _mean(_huber(difference_nn), weights_nn)


def angle_gap(x_nS: Tensor, y_nD: Tensor, weights_n: Tensor) -> Tensor:
    """Weighted mean over triplets of the Huber difference of cosines; [n, n, n] numbers."""
    weights_nn = _pair_weights(weights_n)
    cos_x_nnn, apart_x_nn = _cosines(x_nS, weights_nn)
    cos_y_nnn, apart_y_nn = _cosines(y_nD, weights_nn)
    # [j, i, k]: the angle at j; neither arm may vanish, and the two ends differ
    arms_nn = (apart_x_nn & apart_y_nn).to(weights_n.dtype) * weights_n[None, :]
    weights_nnn = weights_n[:, None, None] * arms_nn[:, :, None] * arms_nn[:, None, :]
    weights_nnn = weights_nnn.masked_fill(torch.eye(len(weights_n), dtype=torch.bool, device=weights_n.device), 0)
    return _mean(_huber(cos_x_nnn - cos_y_nnn), weights_nnn)


def _pair_weights(weights_n: Tensor) -> Tensor:
    weights_nn = weights_n[:, None] * weights_n[None, :]
    return weights_nn - weights_nn.diag().diag()


def _mean(values: Tensor, weights: Tensor) -> Tensor:
    """0 where nothing has a weight."""
    return (values * weights).sum() / weights.sum().clamp_min(torch.finfo(values.dtype).tiny)


def _huber(difference: Tensor) -> Tensor:
    return nn.functional.smooth_l1_loss(difference, torch.zeros_like(difference), reduction="none", beta=1.0)


def _distances(x_nS: Tensor, weights_nn: Tensor) -> tuple[Tensor, Tensor]:
    """[n, n] distances over their mean, and that mean. Not through products of the rows, which lose small distances."""
    distance_nn = torch.cdist(x_nS, x_nS, compute_mode="donot_use_mm_for_euclid_dist")
    mean = _mean(distance_nn, weights_nn).clamp_min(torch.finfo(x_nS.dtype).tiny)
    return distance_nn / mean, mean


def _cosines(x_nS: Tensor, weights_nn: Tensor) -> tuple[Tensor, Tensor]:
    """[j, i, k] cosine of the angle at j between i and k, and [j, i] whether i and j are two points."""
    with torch.no_grad():
        apart_nn = _distances(x_nS, weights_nn)[0] > COINCIDENT
    arms_nnS = x_nS[None, :, :] - x_nS[:, None, :]
    # a row of ones in place of an arm without direction: its gradient would be infinite, and infinity times 0 is NaN
    arms_nnS = torch.where(apart_nn[:, :, None], arms_nnS, torch.ones_like(arms_nnS))
    unit_nnS = arms_nnS / arms_nnS.norm(dim=-1, keepdim=True)
    return torch.bmm(unit_nnS, unit_nnS.transpose(1, 2)), apart_nn
