"""Skew reverse KL: reverse KL to a mixture, so that no teacher probability can make it explode.

Legend: n rows, K support size; column K of a [n, K+1] tensor is the tail.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from distill_core import divergence
from distill_core.types import LOG_FLOOR


@divergence
def skew_reverse_kl(teacher_logp: Tensor, student_logp: Tensor, *, alpha: float = 0.1) -> Tensor:
    """Skew reverse Kullback-Leibler divergence ``KL(q, (1 - alpha) p + alpha q)``, in nat (DistiLLM, arXiv
    2402.03898, section 3.1; their alpha is 0.1).

    At most ``-log alpha``.

    Args:
        teacher_logp: [n, K+1] log-probabilities, the tail last.
        student_logp: [n, K+1] log-probabilities, the tail last.
        alpha: share of the student in the mixture, strictly between 0 and 1.

    Raises:
        ValueError: alpha outside (0, 1).

    >>> import torch
    >>> p, q = torch.tensor([[0.5, 0.3, 0.2]]).log(), torch.tensor([[0.4, 0.4, 0.2]]).log()
    >>> round(skew_reverse_kl(p, q, alpha=0.1).item(), 5)
    0.02078
    """
    if not 0 < alpha < 1:
        raise ValueError(
            f"alpha must lie strictly between 0 and 1, got {alpha}: at 0 this is reverse_kl, at 1 identically 0"
        )
    student_logp = student_logp.clamp_min(LOG_FLOOR)
    mixture = torch.logaddexp(teacher_logp + math.log1p(-alpha), student_logp + math.log(alpha))
    return (student_logp.exp() * (student_logp - mixture)).sum(-1)
