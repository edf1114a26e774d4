"""Skew forward KL: forward KL to a mixture, so that no student probability can make it explode.

Legend: n rows, K support size; column K of a [n, K+1] tensor is the tail.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from distill_core import divergence
from distill_core.types import LOG_FLOOR


@divergence
def skew_forward_kl(teacher_logp: Tensor, student_logp: Tensor, *, alpha: float = 0.1) -> Tensor:
    """Skew Kullback-Leibler divergence ``KL(p, alpha p + (1 - alpha) q)``, in nat (DistiLLM, arXiv 2402.03898,
    section 3.1; their alpha is 0.1).

    At most ``-log alpha``. The gradient reaches the student through the mixture alone.

    Args:
        teacher_logp: [n, K+1] log-probabilities, the tail last.
        student_logp: [n, K+1] log-probabilities, the tail last.
        alpha: share of the teacher in the mixture, strictly between 0 and 1.

    Raises:
        ValueError: alpha outside (0, 1).

    >>> import torch
    >>> p, q = torch.tensor([[0.5, 0.3, 0.2]]).log(), torch.tensor([[0.4, 0.4, 0.2]]).log()
    >>> round(skew_forward_kl(p, q, alpha=0.1).item(), 5)
    0.02052
    """
    if not 0 < alpha < 1:
        raise ValueError(
            f"alpha must lie strictly between 0 and 1, got {alpha}: at 0 this is forward_kl, at 1 identically 0"
        )
    student_logp = student_logp.clamp_min(LOG_FLOOR)
    mixture = torch.logaddexp(teacher_logp + math.log(alpha), student_logp + math.log1p(-alpha))
    return (teacher_logp.exp() * (teacher_logp - mixture)).sum(-1)
