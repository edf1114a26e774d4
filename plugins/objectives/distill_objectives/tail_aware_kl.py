"""Tail-aware KL: the teacher's few most likely tokens one by one, and the rest among itself with a larger weight.

Legend: n rows, K support size; column K of a [n, K+1] tensor is the tail.
"""

from __future__ import annotations

import torch
from torch import Tensor

from distill_core import divergence
from distill_core.types import LOG_FLOOR
from distill_objectives.group_kl import group_kl


@divergence(lower_bound=False)
def tail_aware_kl(
    teacher_logp: Tensor,
    student_logp: Tensor,
    *,
    modes: int = 10,
    beta: float = 2.0,
    mean_tail_mass: float | None = None,
) -> Tensor:
    """Tail-aware decoupled divergence, in nat (TAD, arXiv 2602.20816, section 2)::

        D1 + (beta / m) a D2
        D1 = sum over the modes of p (log p - log q) + a (log a - log b)
        D2 = KL(p / a, q / b) over the outcomes that are no modes

    The modes are the teacher's ``modes`` most likely tokens, a and b the masses of teacher and student beyond them.
    With ``beta = m = 1`` it is forward KL. On the k+1 simplex the outcomes beyond the modes are the rest of the support
    and the tail, so the support must hold more than ``modes`` ids; at K = V it is the paper's loss. If the modes are in
    the support the value is at most that on the whole vocabulary; for an arbitrary support it need not be.

    The paper takes for m the mean of a over the tokens of the sequence. A row objective sees one row at a time, so m is
    a constant here: the mean over the data, measured beforehand, or 1.

    Args:
        teacher_logp: [n, K+1] log-probabilities, the tail last.
        student_logp: [n, K+1] log-probabilities, the tail last; exactly 0 counts as 1e-30.
        modes: the paper's K, 1 <= modes < K of the support; theirs are 1, 5, 10, 20.
        beta: weight of the part beyond the modes; the paper's choice is 2.
        mean_tail_mass: m in (0, 1]; None for 1.

    Raises:
        ValueError: the support holds no more than ``modes`` ids.

    >>> import torch
    >>> p, q = torch.tensor([[0.5, 0.3, 0.2]]).log(), torch.tensor([[0.5, 0.4, 0.1]]).log()
    >>> [round(tail_aware_kl(p, q, modes=1, beta=b).item(), 4) for b in (1.0, 2.0)]
    [0.0523, 0.1046]
    """
    support = teacher_logp.shape[-1] - 1
    if modes >= support:
        raise ValueError(
            f"modes is {modes}, but the support holds {support} ids: beyond the modes there would be the tail alone, "
            "one outcome without a shape; use fewer modes or capture with a larger k"
        )
    student_logp = student_logp.masked_fill(torch.isneginf(student_logp), LOG_FLOOR)
    order_nK = teacher_logp[:, :-1].sort(dim=-1, descending=True, stable=True).indices
    mode_nK1 = torch.zeros_like(teacher_logp, dtype=torch.bool).scatter(-1, order_nK[:, :modes], True)
    rest = group_kl(teacher_logp, student_logp, ~mode_nK1)
    gap_nK1 = teacher_logp.exp() * (teacher_logp - student_logp)
    first_n = torch.where(mode_nK1 & (teacher_logp > LOG_FLOOR), gap_nK1, 0.0).sum(-1) + rest.term()
    weight = beta if mean_tail_mass is None else beta / mean_tail_mass
    return first_n + weight * torch.where(rest.teacher_n > LOG_FLOOR, rest.teacher_n.exp(), 0.0) * rest.inside_n
