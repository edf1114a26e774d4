"""Alpha-beta divergence: two exponents between forward KL, reverse KL and distances of Hellinger's kind.

Legend: n rows, K support size; column K of a [n, K+1] tensor is the tail.
"""

from __future__ import annotations

import torch
from torch import Tensor

from distill_core import divergence
from distill_core.types import LOG_FLOOR


def _exponential(c: float, y_nX: Tensor) -> Tensor:
    """(e^(c y) - 1) / c, and its limit y at c = 0."""
    return y_nX if c == 0 else torch.expm1(c * y_nX) / c


def _difference(c: float, h: float, y_nX: Tensor) -> Tensor:
    """(E(c + h, y) - E(c, y)) / h for the function E above, and its limit dE/dc at h = 0."""
    if h == 0:
        return (y_nX * torch.exp(c * y_nX) - _exponential(c, y_nX)) / c
    return (_exponential(c + h, y_nX) - _exponential(c, y_nX)) / h


@divergence(lower_bound=False)
def alpha_beta(teacher_logp: Tensor, student_logp: Tensor, *, alpha: float = 0.2, beta: float = 0.7) -> Tensor:
    """Alpha-beta divergence (ABKD, arXiv 2505.04560; Cichocki, Cruces & Amari 2011, doi 10.3390/e13010134)::

        -1 / (a b) sum [p^a q^b - a / (a + b) p^(a + b) - b / (a + b) q^(a + b)]

    and its limits where an exponent is 0: ``1 / a^2 sum [p^a log(p^a / q^a) - p^a + q^a]`` at b = 0, the same with the
    sides exchanged at a = 0. (1, 0) is forward KL, (0, 1) reverse KL, (1/2, 1/2) four times the squared Hellinger
    distance ``sum (sqrt p - sqrt q)^2 / 2``. A smaller a + b weighs unlikely outcomes more. The defaults are those that
    code building on ABKD carries for language models.

    Merging outcomes lowers it for certain only where a + b = 1; where a + b > 1 it can raise it. Probabilities of
    exactly 0 count as 1e-30. At a = b = 0 and for negative exponents such outcomes would weigh without bound: refused.

    Args:
        teacher_logp: [n, K+1] log-probabilities, the tail last.
        student_logp: [n, K+1] log-probabilities, the tail last.
        alpha: a >= 0, exponent of the teacher.
        beta: b >= 0, exponent of the student; not both 0.

    Raises:
        ValueError: a negative exponent, or both 0.

    >>> import torch
    >>> p, q = torch.tensor([[0.5, 0.3, 0.2]]).log(), torch.tensor([[0.4, 0.4, 0.2]]).log()
    >>> [round(alpha_beta(p, q, alpha=a, beta=b).item(), 4) for a, b in ((1, 0), (0, 1), (0.5, 0.5))]
    [0.0253, 0.0258, 0.0255]
    """
    if alpha < 0 or beta < 0 or alpha + beta == 0:
        raise ValueError(f"alpha and beta must not be negative, nor both 0; got alpha {alpha}, beta {beta}")
    student_logp = student_logp.masked_fill(torch.isneginf(student_logp), LOG_FLOOR)
    ratio_nK1 = student_logp - teacher_logp
    # The larger probability is factored out, so that no exponent is positive; of the two terms the other is 0.
    larger_teacher = torch.exp((alpha + beta) * teacher_logp) * _difference(beta, alpha, ratio_nK1.clamp_max(0))
    larger_student = torch.exp((alpha + beta) * student_logp) * _difference(alpha, beta, -ratio_nK1.clamp_min(0))
    return (larger_teacher + larger_student).sum(-1)
