"""Differences of the top logits: the order of the likely tokens and their distances, nothing of the tail.

Legend: n rows, K support size; column K of a [n, K+1] tensor is the tail; m tokens compared, P = m (m - 1) / 2 pairs.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from distill_core import divergence
from distill_core.types import LOG_FLOOR

Led = Literal["both", "teacher", "student"]


def _led_by(leader_nK: Tensor, teacher_nK: Tensor, student_nK: Tensor, possible_nK: Tensor, top_k: int) -> Tensor:
    """[n] KL between the softmaxes over all differences of pairs, taken in the order of the leader's top tokens."""
    ranked_nK = leader_nK.detach().masked_fill(~possible_nK, -torch.inf)
    order_nm = ranked_nK.sort(dim=-1, descending=True, stable=True).indices[:, :top_k]
    first, second = torch.triu_indices(order_nm.shape[-1], order_nm.shape[-1], 1, device=order_nm.device)
    kept_nm = possible_nK.gather(-1, order_nm)
    pair_nP = kept_nm[:, first] & kept_nm[:, second]
    none_n1 = ~pair_nP.any(-1, keepdim=True)

    def over_pairs(logp_nK: Tensor) -> Tensor:
        logp_nm = logp_nK.gather(-1, order_nm)
        difference_nP = logp_nm[:, first] - logp_nm[:, second]
        return torch.where(pair_nP | none_n1, difference_nP, -torch.inf).log_softmax(-1)

    teacher_nP, student_nP = over_pairs(teacher_nK), over_pairs(student_nK)
    return torch.where(pair_nP, teacher_nP.exp() * (teacher_nP - student_nP), 0.0).sum(-1)


@divergence(lower_bound=False)
def logit_differences(teacher_logp: Tensor, student_logp: Tensor, *, top_k: int = 8, led: Led = "both") -> Tensor:
    """Bi-directional logits difference, in nat (BiLD, arXiv 2406.13555)::

        KL(softmax d, softmax e) over the pairs i < j,    d_ij = log p_i - log p_j,  e_ij = log q_i - log q_j

    once over the teacher's ``top_k`` tokens in its order (teacher-led) and once over the student's in the student's
    order (student-led), added. Differences of log-probabilities are those of logits over the temperature (the paper's
    is 3). The tail takes no part: the loss says nothing about how much mass the student gives to it, so add
    ``cross-entropy`` or ``forward-kl``.

    The student-led half chooses among the tokens of the support, as no others have a teacher's logit; the paper chooses
    among all of the vocabulary, which is the same at K = V. The value jumps where two tokens of the student change
    places; the gradient is that of the value elsewhere. Tokens that are impossible for the teacher are left out, a
    student probability of exactly 0 counts as 1e-30, and a row with fewer than two tokens gives 0.

    Args:
        teacher_logp: [n, K+1] log-probabilities, the tail last.
        student_logp: [n, K+1] log-probabilities, the tail last.
        top_k: tokens compared, >= 2; 8 in the paper. All of a smaller support.
        led: ``both``, or one half alone.

    Raises:
        ValueError: a support of fewer than two ids, which has no pairs.

    >>> import torch
    >>> p, q = torch.tensor([[0.5, 0.3, 0.1, 0.1]]).log(), torch.tensor([[0.4, 0.3, 0.1, 0.2]]).log()
    >>> round(logit_differences(p, q).item(), 4), round(logit_differences(p, q, led="teacher").item(), 4)
    (0.0109, 0.0055)
    """
    support = teacher_logp.shape[-1] - 1
    if support < 2:
        raise ValueError(f"logit-differences needs a support of at least 2 ids, got {support}: capture with a larger k")
    teacher_nK = teacher_logp[:, :-1]
    student_nK = student_logp[:, :-1].masked_fill(torch.isneginf(student_logp[:, :-1]), LOG_FLOOR)
    possible_nK = teacher_nK > LOG_FLOOR
    value_n = torch.zeros_like(student_nK[:, 0])
    if led != "student":
        value_n = value_n + _led_by(teacher_nK, teacher_nK, student_nK, possible_nK, top_k)
    if led != "teacher":
        value_n = value_n + _led_by(student_nK, teacher_nK, student_nK, possible_nK, top_k)
    return value_n
