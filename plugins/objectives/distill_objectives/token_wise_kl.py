"""Token-wise KL: for each outcome, forward KL's term where the student is too low, reverse KL's where it is too high.

Legend: n rows, K support size; column K of a [n, K+1] tensor is the tail.
"""

from __future__ import annotations

import torch
from torch import Tensor

from distill_core import divergence
from distill_core.types import LOG_FLOOR


@divergence(exact_gradient=False)
def token_wise_kl(teacher_logp: Tensor, student_logp: Tensor) -> Tensor:
    """Token-wise mixture of forward and reverse KL, in nat (ToDi, arXiv 2505.16297)::

        sum_i a_i p_i log(p_i / q_i) + (1 - a_i) q_i log(q_i / p_i)
        a_i = sigmoid(log(p_i / q_i)) = p_i / (p_i + q_i)

    with the weights a_i held fixed, so the gradient is not that of the value. The value is an old acquaintance: with
    these weights it equals ``sum (p - q) log(p / q)``, Jeffreys' ``KL(p, q) + KL(q, p)``, and so is a lower bound of
    its value on the whole vocabulary. Probabilities of exactly 0 count as 1e-30.

    Args:
        teacher_logp: [n, K+1] log-probabilities, the tail last.
        student_logp: [n, K+1] log-probabilities, the tail last.

    >>> import torch
    >>> p, q = torch.tensor([[0.5, 0.3, 0.2]]).log(), torch.tensor([[0.4, 0.4, 0.2]]).log()
    >>> round(token_wise_kl(p, q).item(), 4)
    0.0511
    """
    student_logp = student_logp.masked_fill(torch.isneginf(student_logp), LOG_FLOOR)
    ratio_nK1 = teacher_logp - student_logp
    up_nK1 = torch.sigmoid(ratio_nK1.detach())
    down_nK1 = torch.sigmoid(-ratio_nK1.detach())
    return (ratio_nK1 * (up_nK1 * teacher_logp.exp() - down_nK1 * student_logp.exp())).sum(-1)
