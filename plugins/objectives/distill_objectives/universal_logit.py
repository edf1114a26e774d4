"""Universal logit distillation: sorted probabilities compared, whatever tokens they belong to.

Legend: n rows of a chunk, N rows, K entries compared one by one; the last column of a [n, K+1] tensor is the rest.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from distill_core.errors import SignalError
from distill_core.types import RowInfo, RowTarget, SupportLogits, TeacherSignals, TokenBatch
from distill_objectives.universal_logit_options import UniversalLogitOptions

RANKED = "ranked_log_probs"


class UniversalLogit:
    """Distance of sorted probabilities (ULD, arXiv 2402.12030), for a teacher whose tokens are not the student's::

        sum_i |p_(i) - q_(i)|,    p_(1) >= p_(2) >= ..., q_(1) >= q_(2) >= ...

    a Wasserstein distance under a cost that is the same between any two tokens. The K largest are compared one by one
    and the rest as one outcome, a lower bound; with K the size of both vocabularies it is the dense loss. The paper
    pairs positions by their index in the two sequences; here a row counts only where an aligner found that both have
    read the same bytes, and is 0 elsewhere. Temperature 1. It says how sure the teacher is, not of which token: use it
    beside cross-entropy.

    Args:
        options: ``k``.

    >>> import torch
    >>> ranked_distance(torch.tensor([[0.5, 0.3, 0.2]]), torch.tensor([[0.6, 0.1, 0.3]]))
    tensor([0.4000])
    """

    def __init__(self, options: UniversalLogitOptions) -> None:
        self.options = options
        self.student_support = options.k

    def temperatures(self, step: int, total_steps: int) -> tuple[float, ...]:
        return (1.0,)

    def prepare(self, batch: TokenBatch, signals: TeacherSignals, rows: RowInfo) -> Mapping[str, Tensor]:
        """The teacher's ranked log-probabilities, [N, L+1].

        Raises:
            SignalError: the teacher does not give them.
        """
        ranked_NL1 = signals.extra.get(RANKED)
        if ranked_NL1 is None:
            raise SignalError(
                f"universal-logit reads {RANKED}, which the teacher did not give: they come from an aligner, "
                "train.vocabulary: {use: byte-span} or {use: shared-vocabulary}, and a live teacher"
            )
        return {RANKED: ranked_NL1}

    def rows(self, support: SupportLogits, target: RowTarget | None, rows: RowInfo) -> Tensor:
        """[n] values, between 0 and 2."""
        teacher_nL1 = rows.extra[RANKED].to(support.support_NK.dtype).exp()
        logp_nK1 = support.log_probs(1.0)
        best_nK = logp_nK1[:, :-1].exp().sort(dim=1, descending=True).values
        student_nK1 = torch.cat([best_nK, logp_nK1[:, -1:].exp()], dim=1)
        width = min(teacher_nL1.shape[1], student_nK1.shape[1]) - 1
        value_n = ranked_distance(_folded(teacher_nL1, width), _folded(student_nK1, width))
        return torch.where(teacher_nL1.sum(dim=1) > 0, value_n, torch.zeros_like(value_n))


def ranked_distance(first: Tensor, second: Tensor) -> Tensor:
    """[n] sum of absolute differences of two [n, K+1] sorted distributions, the rest last."""
    return (first - second).abs().sum(dim=1)


def _folded(ranked_nL1: Tensor, width: int) -> Tensor:
    """The first ``width`` entries and the sum of all others."""
    return torch.cat([ranked_nL1[:, :width], ranked_nL1[:, width:].sum(dim=1, keepdim=True)], dim=1)
