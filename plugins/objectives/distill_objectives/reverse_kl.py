"""Reverse KL: the student is asked for no mass where the teacher has little (mode seeking).

Legend: n rows, K support size; column K of a [n, K+1] tensor is the tail.
"""

from __future__ import annotations

from torch import Tensor

from distill_core import divergence
from distill_core.types import LOG_FLOOR


@divergence
def reverse_kl(teacher_logp: Tensor, student_logp: Tensor) -> Tensor:
    """Reverse Kullback-Leibler divergence per token, ``sum q (log q - log p)`` over the support and the tail, in nat
    (MiniLLM, arXiv 2306.08543, equation 1, taken token by token).

    A teacher probability of exactly 0 counts as 1e-30, so the value stays finite: about 69 nat per unit of student
    mass there. Without the tail the loss is ill-posed (the student escapes off the support), so there is no such mode.

    Args:
        teacher_logp: [n, K+1] log-probabilities, the tail last.
        student_logp: [n, K+1] log-probabilities, the tail last.

    >>> import torch
    >>> p, q = torch.tensor([[0.5, 0.3, 0.2]]).log(), torch.tensor([[0.4, 0.4, 0.2]]).log()
    >>> round(reverse_kl(p, q).item(), 4)
    0.0258
    """
    student_logp = student_logp.clamp_min(LOG_FLOOR)
    return (student_logp.exp() * (student_logp - teacher_logp)).sum(-1)
