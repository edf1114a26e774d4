"""Total variation: half the mass that would have to move.

Legend: n rows, K support size; column K of a [n, K+1] tensor is the tail.
"""

from __future__ import annotations

from torch import Tensor

from distill_core import divergence


@divergence
def total_variation(teacher_logp: Tensor, student_logp: Tensor) -> Tensor:
    """Total variation distance ``(1/2) sum |p - q|`` over the support and the tail, between 0 and 1 (f-DISTILL, arXiv
    2307.15190, total-variation variant).

    The gradient is that of the value where p and q differ, and 0 in an entry where they are equal.

    Args:
        teacher_logp: [n, K+1] log-probabilities, the tail last.
        student_logp: [n, K+1] log-probabilities, the tail last.

    >>> import torch
    >>> p, q = torch.tensor([[0.5, 0.3, 0.2]]).log(), torch.tensor([[0.4, 0.4, 0.2]]).log()
    >>> round(total_variation(p, q).item(), 4)
    0.1
    """
    return 0.5 * (teacher_logp.exp() - student_logp.exp()).abs().sum(-1)
