"""Adaptive KL: forward and reverse KL mixed row by row, by where the student is further off: head or tail.

Legend: n rows, K support size; column K of a [n, K+1] tensor is the tail.
"""

from __future__ import annotations

import torch
from torch import Tensor

from distill_core import divergence
from distill_core.types import LOG_FLOOR
from distill_objectives.forward_kl import forward_kl
from distill_objectives.reverse_kl import reverse_kl


def head_weight(teacher_logp: Tensor, student_logp: Tensor, head_mass: float) -> Tensor:
    """[n] weight of forward KL: the share of ``sum |p - q|`` that lies in the head; 1/2 where p = q. No gradient."""
    with torch.no_grad():
        gap_nK1 = (teacher_logp.exp() - student_logp.exp()).abs()
        sorted_nK, column_nK = teacher_logp[:, :-1].exp().sort(dim=-1, descending=True, stable=True)
        head_nK = sorted_nK.cumsum(-1) <= head_mass
        head_nK[:, :1] = True
        head_gap_n = torch.where(head_nK, gap_nK1.gather(-1, column_nK), 0.0).sum(-1)
        total_n = gap_nK1.sum(-1)
        return torch.where(total_n > 0, head_gap_n / total_n, 0.5)


@divergence(lower_bound=False, exact_gradient=False)
def adaptive_kl(teacher_logp: Tensor, student_logp: Tensor, *, head_mass: float = 0.5) -> Tensor:
    """Adaptive Kullback-Leibler divergence, in nat (AKL, arXiv 2404.02657)::

        g_head / (g_head + g_tail) KL(p, q) + g_tail / (g_head + g_tail) KL(q, p),    g = sum |p - q| over that part

    The head are the teacher's most likely tokens as long as their probabilities add up to at most ``head_mass``, and
    the most likely one always, as in the authors' code (the DSKD and ToDi code bases also count the token that passes
    the mark). Outcomes of the support alone can be head; the tail outcome belongs to the tail. The weights carry no
    gradient, so the gradient is not that of the value. A student probability of exactly 0 counts as 1e-30.

    Args:
        teacher_logp: [n, K+1] log-probabilities, the tail last.
        student_logp: [n, K+1] log-probabilities, the tail last.
        head_mass: the paper's mu, strictly between 0 and 1.

    Raises:
        ValueError: head_mass outside (0, 1).

    >>> import torch
    >>> p, q = torch.tensor([[0.5, 0.3, 0.2]]).log(), torch.tensor([[0.4, 0.4, 0.2]]).log()
    >>> round(adaptive_kl(p, q).item(), 4), round(head_weight(p, q, 0.5).item(), 4)
    (0.0255, 0.5)
    """
    if not 0 < head_mass < 1:
        raise ValueError(f"head_mass must lie strictly between 0 and 1, got {head_mass}")
    student_logp = student_logp.masked_fill(torch.isneginf(student_logp), LOG_FLOOR)
    weight_n = head_weight(teacher_logp, student_logp, head_mass)
    return weight_n * forward_kl(teacher_logp, student_logp) + (1 - weight_n) * reverse_kl(teacher_logp, student_logp)
