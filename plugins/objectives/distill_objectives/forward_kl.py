"""Forward KL: the student is asked for mass wherever the teacher has some (mode covering).

Legend: n rows, K support size; column K of a [n, K+1] tensor is the tail.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from distill_core import divergence
from distill_core.types import LOG_FLOOR
from distill_objectives.options import MODE_PROPERTIES

Mode = Literal["tail", "truncated", "renormalized", "renormalized-both"]


def _expected_gap(teacher_nX: Tensor, student_nX: Tensor) -> Tensor:
    """sum p (log p - log q) over outcomes the teacher thinks possible: 0 log 0 = 0; +inf where q = 0 < p."""
    possible_nX = teacher_nX > LOG_FLOOR
    return torch.where(possible_nX, teacher_nX.exp() * (teacher_nX - student_nX), 0.0).sum(-1)


def _renormalize(logp_nK: Tensor, possible_nK: Tensor) -> Tensor:
    """log of p / P over the support; outcomes that are not possible stay at the floor."""
    mass_n1 = torch.where(possible_nK, logp_nK, -torch.inf).logsumexp(-1, keepdim=True)
    empty_n1 = ~possible_nK.any(-1, keepdim=True)
    return torch.where(possible_nK, logp_nK - mass_n1.masked_fill(empty_n1, 0.0), LOG_FLOOR)


@divergence(linear_in_teacher=True)
def forward_kl(teacher_logp: Tensor, student_logp: Tensor, *, mode: Mode = "tail") -> Tensor:
    """Forward Kullback-Leibler divergence, in nat (Hinton, Vinyals & Dean 2015, arXiv 1503.02531, section 2, up to the
    teacher's entropy and the factor 1 / T^2, which is in neither value nor gradient here).

    With p, q the probabilities on the support, P and S their sums, and t = 1 - P, s = 1 - S the tails::

        tail               sum p (log p - log q) + t (log t - log s)
        truncated          sum p (log p - log q)
        renormalized       sum (p/P) (log(p/P) - log q)
        renormalized-both  sum (p/P) (log(p/P) - log(q/S))

    Only ``tail`` is a divergence: 0 only at equality of what is known, never negative, at most the full KL, equal to it
    at K = V. ``truncated`` can be negative and rewards a student that is over-confident on the support.
    ``renormalized`` pulls the student's tail towards 0 and is -log P at equality. ``renormalized-both`` does not see
    what the student does off the support.

    Args:
        teacher_logp: [n, K+1] log-probabilities, the tail last; carries no gradient.
        student_logp: [n, K+1] log-probabilities, the tail last.
        mode: what happens to the mass outside the support.

    Returns:
        [n] values in nat; +inf where the student gives 0 to something the teacher thinks possible.

    Raises:
        ValueError: an unknown mode.

    >>> import torch
    >>> p, q = torch.tensor([[0.5, 0.3, 0.2]]).log(), torch.tensor([[0.4, 0.4, 0.2]]).log()
    >>> round(forward_kl(p, q).item(), 4), round(forward_kl(p, p, mode="renormalized").item(), 4)
    (0.0253, 0.2231)
    """
    if mode == "tail":
        return _expected_gap(teacher_logp, student_logp)
    if mode not in MODE_PROPERTIES:
        raise ValueError(f"mode must be one of {list(MODE_PROPERTIES)}, got {mode!r}")
    teacher_nK, student_nK = teacher_logp[:, :-1], student_logp[:, :-1]
    if mode == "truncated":
        return _expected_gap(teacher_nK, student_nK)
    possible_nK = teacher_nK > LOG_FLOOR
    if mode == "renormalized-both":
        student_nK = _renormalize(student_nK, student_nK > LOG_FLOOR)
    return _expected_gap(_renormalize(teacher_nK, possible_nK), student_nK)
