"""Generalised Jensen-Shannon divergence: bounded, between forward and reverse KL.

Legend: n rows, K support size; column K of a [n, K+1] tensor is the tail.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from distill_core import divergence
from distill_core.types import LOG_FLOOR


@divergence
def jsd(teacher_logp: Tensor, student_logp: Tensor, *, beta: float = 0.5) -> Tensor:
    """Generalised Jensen-Shannon divergence, in nat (GKD, arXiv 2306.13649, section 2)::

        M = beta p + (1 - beta) q,    beta KL(p, M) + (1 - beta) KL(q, M)    on the k+1 simplex

    At most ``-beta log beta - (1 - beta) log(1 - beta)``. Divided by beta it tends to forward KL as beta goes to 0,
    divided by 1 - beta to reverse KL as beta goes to 1; at 0 and at 1 themselves it is identically 0.

    Args:
        teacher_logp: [n, K+1] log-probabilities, the tail last.
        student_logp: [n, K+1] log-probabilities, the tail last.
        beta: weight of the teacher in the mixture, strictly between 0 and 1.

    Raises:
        ValueError: beta outside (0, 1).

    >>> import torch
    >>> p, q = torch.tensor([[0.5, 0.3, 0.2]]).log(), torch.tensor([[0.4, 0.4, 0.2]]).log()
    >>> round(jsd(p, q, beta=0.5).item(), 5)
    0.00637
    """
    if not 0 < beta < 1:
        raise ValueError(
            f"beta must lie strictly between 0 and 1, got {beta}: at 0 and at 1 the divergence is identically 0; "
            "use forward_kl or reverse_kl"
        )
    student_logp = student_logp.clamp_min(LOG_FLOOR)
    mixture = torch.logaddexp(teacher_logp + math.log(beta), student_logp + math.log1p(-beta))
    from_teacher = teacher_logp.exp() * (teacher_logp - mixture)
    from_student = student_logp.exp() * (student_logp - mixture)
    return (beta * from_teacher + (1 - beta) * from_student).sum(-1)
