"""The objective itself; imported when a run uses it."""

from __future__ import annotations

from torch import Tensor

from distill_core import divergence


@divergence
def total_variation(teacher_logp: Tensor, student_logp: Tensor) -> Tensor:
    """Half the sum of |p - q| over the k token ids and the tail: [n, K+1], [n, K+1] -> [n]."""
    return 0.5 * (teacher_logp.exp() - student_logp.exp()).abs().sum(-1)
