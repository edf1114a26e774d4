"""KL to a target between student and teacher, interpolated on the k+1 outcomes of the support.

Legend: n rows, K support size; column K of a [n, K+1] tensor is the tail.
"""

from __future__ import annotations

import torch
from torch import Tensor

from distill_core import divergence
from distill_core.types import LOG_FLOOR


def interpolated(teacher_logp: Tensor, student_logp: Tensor, t: float) -> Tensor:
    """[n, K+1] log of the normalised ``q^(1 - t) p^t``, without gradient; -inf where either factor is 0.

    At t = 0 the student itself, at t = 1 the teacher. Where the two have no outcome in common, the teacher.
    """
    with torch.no_grad():
        if t == 0:
            return student_logp.detach().clone()
        impossible_nK1 = teacher_logp <= LOG_FLOOR
        teacher_nK1 = teacher_logp.masked_fill(impossible_nK1, -torch.inf)
        if t == 1:
            return teacher_nK1
        mixed_nK1 = (1 - t) * student_logp + t * teacher_nK1
        apart_n1 = torch.isneginf(mixed_nK1).all(-1, keepdim=True)
        return torch.where(apart_n1, teacher_nK1, mixed_nK1).log_softmax(-1)


@divergence(lower_bound=False, exact_gradient=False)
def interpolated_support_kl(teacher_logp: Tensor, student_logp: Tensor, *, interpolation: float) -> Tensor:
    """KL from an interpolated target to the student, in nat (TAID, arXiv 2501.16937, on the support)::

        r = softmax((1 - t) log q + t log p) with q held fixed,    KL(r, q)

    over the k+1 outcomes. t goes from the student (0: no loss) to the teacher (1: forward KL) over the training. TAID
    interpolates the logits of the whole vocabulary: the same at K = V. On a smaller support the tail is interpolated as
    one outcome, which gives it more mass than interpolating its tokens one by one would. The target carries no
    gradient, so the gradient, that of a cross-entropy with it, is not that of the value. TAID also lets t run ahead of
    its schedule while the loss falls fast; here t is the schedule's alone.

    Args:
        teacher_logp: [n, K+1] log-probabilities, the tail last.
        student_logp: [n, K+1] log-probabilities, the tail last.
        interpolation: t in [0, 1].

    Returns:
        [n] values; +inf at t = 1 where the student gives 0 to something that the teacher thinks possible.

    Raises:
        ValueError: t outside [0, 1], say at the end of a schedule.

    >>> import torch
    >>> p, q = torch.tensor([[0.5, 0.3, 0.2]]).log(), torch.tensor([[0.4, 0.4, 0.2]]).log()
    >>> [round(interpolated_support_kl(p, q, interpolation=t).item(), 4) for t in (0.0, 0.5, 1.0)]
    [0.0, 0.0065, 0.0253]
    """
    if not 0 <= interpolation <= 1:
        raise ValueError(f"interpolation must lie between 0 (the student) and 1 (the teacher), got {interpolation}")
    target_nK1 = interpolated(teacher_logp, student_logp, interpolation)
    possible_nK1 = target_nK1 > LOG_FLOOR
    return torch.where(possible_nK1, target_nK1.exp() * (target_nK1 - student_logp), 0.0).sum(-1)
