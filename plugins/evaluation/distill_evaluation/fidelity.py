"""How closely a model follows its teacher, exactly over the full vocabulary.

Legend: n rows of a chunk, V the model's vocabulary, U the effective vocabulary shared with the teacher, k top entries.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from distill_core.engine.row_pass import evaluate_rows
from distill_core.engine.totals import PositionTotals, SplitTotals
from distill_core.errors import SignalError
from distill_core.interfaces import EvaluatedRows, EvaluationContext, Measurement
from distill_evaluation.options import FidelityOptions

PARTS = ("teacher_right", "teacher_wrong")
"""Rows whose label is the teacher's most likely token, and the others."""


class Fidelity:
    """Evaluator ``fidelity``: teacher ``p``, model ``q``, at temperature 1, nothing truncated or sampled.

    - ``forward_kl`` ``sum_v p (log p - log q)`` and ``reverse_kl`` ``sum_v q (log q - log p)``, nat per token, summed
      over every token of the effective vocabulary; ``detail["by_position"]`` has the forward one by position.
    - ``jensen_shannon`` ``(KL(p || m) + KL(q || m)) / 2`` with ``m = (p + q) / 2``: between 0 and ln 2.
    - ``top1_agreement``: share of rows where both find the same token most likely.
    - ``top{k}_overlap``: ``|top-k(p) & top-k(q)| / k``.
    - ``acceptance_rate`` ``sum_v min(p, q)``: the chance that speculative decoding accepts a token drawn from ``q``
      (Leviathan et al., arXiv 2211.17192, theorem 3.5); 1 minus the total variation.

    Every metric's ``detail`` has it apart for rows where the teacher is right (its most likely token is the label) and
    wrong: following a teacher where it errs is no merit.

    ``p`` is normalised over the effective vocabulary. In the forward KL and the acceptance rate ``q`` is the softmax
    over all rows of the model's head, so mass on padding rows costs; in the reverse KL and Jensen-Shannon, ``q`` is
    normalised over the effective vocabulary too. Computed in fp32 and summed in fp64.
    """

    aspect = "fidelity"

    def __init__(self, options: FidelityOptions | None = None) -> None:
        self.options = options or FidelityOptions()

    def begin(self, context: EvaluationContext) -> _FidelityRows | None:
        if context.is_teacher:
            return None
        if not context.teacher_rows:
            raise SignalError(
                f"fidelity compares with the teacher's full distribution, but {context.teacher_missing}; "
                "sparse-fidelity reads a sparse one"
            )
        rows = _FidelityRows(self.options.overlap_k, "nat/row" if context.labels else "nat/token")
        # Two sets of all classes always overlap.
        rows.shows_overlap = not context.labels or len(context.labels) > self.options.overlap_k
        return rows

    def evaluate(self, context: EvaluationContext) -> list[Measurement]:
        return evaluate_rows(self, context)


class _FidelityRows:
    def __init__(self, overlap_k: int, unit: str) -> None:
        self.overlap_k, self.unit, self.shows_overlap = overlap_k, unit, True
        self.forward, self.reverse, self.shannon = SplitTotals(PARTS), SplitTotals(PARTS), SplitTotals(PARTS)
        self.top1, self.overlap, self.accepted = SplitTotals(PARTS), SplitTotals(PARTS), SplitTotals(PARTS)
        self.positions = PositionTotals()

    def update(self, rows: EvaluatedRows) -> None:
        assert rows.teacher_logits_nU is not None
        width = min(rows.effective_vocabulary, rows.logits_nV.shape[1], rows.teacher_logits_nU.shape[1])
        teacher_nU = self._teacher(rows, width)
        student_nU = rows.logp_nV[:, :width]
        k = min(self.overlap_k, width)
        teacher_nk = self._teacher_top(rows, teacher_nU, k)
        right_n = teacher_nk[:, 0] == rows.labels_n
        forward_n = kl(teacher_nU, student_nU)
        self.forward.add(rows, forward_n, right_n)
        self.positions.add(rows, forward_n)
        self.accepted.add(rows, torch.minimum(teacher_nU, student_nU).exp_().sum(dim=1), right_n)
        if width < rows.logp_nV.shape[1]:
            student_nU = student_nU.log_softmax(dim=1)
        self.reverse.add(rows, kl(student_nU, teacher_nU), right_n)
        self.shannon.add(rows, jensen_shannon(teacher_nU, student_nU), right_n)
        student_nk = student_nU.topk(k, dim=1).indices
        self.top1.add(rows, (teacher_nk[:, 0] == student_nk[:, 0]).float(), right_n)
        shared_nk = (teacher_nk[:, :, None] == student_nk[:, None, :]).any(dim=2)
        self.overlap.add(rows, shared_nk.float().mean(dim=1), right_n)

    @staticmethod
    def _teacher(rows: EvaluatedRows, width: int) -> Tensor:
        """The teacher's log-probabilities on the first ``width`` ids, computed once for all students."""
        assert rows.teacher_logits_nU is not None
        key = f"fidelity: teacher log-probabilities, {width}, {rows.teacher_logits_nU.device}"
        if key not in rows.memo:
            rows.memo[key] = rows.teacher_logits_nU[:, :width].log_softmax(dim=1)
        found: Tensor = rows.memo[key]
        return found

    @staticmethod
    def _teacher_top(rows: EvaluatedRows, teacher_nU: Tensor, k: int) -> Tensor:
        key = f"fidelity: teacher top {k} of {teacher_nU.shape[1]}, {teacher_nU.device}"
        if key not in rows.memo:
            rows.memo[key] = teacher_nU.topk(k, dim=1).indices
        found: Tensor = rows.memo[key]
        return found

    def measurements(self) -> list[Measurement]:
        distances = [
            ("forward_kl", "KL to the teacher", self.forward),
            ("reverse_kl", "Reverse KL", self.reverse),
            ("jensen_shannon", "Jensen-Shannon divergence", self.shannon),
        ]
        shares = [
            ("top1_agreement", "Top-1 agreement", self.top1),
            ("acceptance_rate", "Speculative acceptance", self.accepted),
            (f"top{self.overlap_k}_overlap", f"Top-{self.overlap_k} overlap", self.overlap),
        ][: 3 if self.shows_overlap else 2]
        by_position = {"by_position": self.positions.series()}
        return [
            self._measurement(metric, label, totals, self.unit, by_position if metric == "forward_kl" else {})
            for metric, label, totals in distances
        ] + [self._measurement(metric, label, totals, "fraction", {}) for metric, label, totals in shares]

    def _measurement(
        self, metric: str, label: str, totals: SplitTotals, unit: str, detail: dict[str, Any]
    ) -> Measurement:
        return Measurement(
            metric,
            totals.all.value,
            unit,
            self.forward.all.count,
            unit == "fraction",
            totals.all.sums(),
            {**detail, **totals.detail()},
            label=label,
            primary=metric == "forward_kl",
        )


def jensen_shannon(p_logp_nV: Tensor, q_logp_nV: Tensor) -> Tensor:
    """``(KL(p || m) + KL(q || m)) / 2``, ``m = (p + q) / 2``, per row; finite wherever either is 0.

    >>> jensen_shannon(torch.tensor([[1.0, 0.0]]).log(), torch.tensor([[0.0, 1.0]]).log())  # ln 2
    tensor([0.6931])
    """
    middle_nV = torch.logaddexp(p_logp_nV, q_logp_nV) - math.log(2)
    return (kl(p_logp_nV, middle_nV) + kl(q_logp_nV, middle_nV)) / 2


def kl(p_logp_nV: Tensor, q_logp_nV: Tensor) -> Tensor:
    """``sum_v p (log p - log q)`` per row; terms with p = 0 are 0, p > 0 where q = 0 gives +inf.

    >>> kl(torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.25, 0.75]]).log())
    tensor([0.1438])
    """
    difference_nV = p_logp_nV - q_logp_nV
    value_n = torch.linalg.vecdot(p_logp_nV.exp(), difference_nV)
    if value_n.isnan().any():  # 0 * inf, where p = 0
        difference_nV.masked_fill_(p_logp_nV == -float("inf"), 0.0)
        value_n = torch.linalg.vecdot(p_logp_nV.exp(), difference_nV)
    return value_n
