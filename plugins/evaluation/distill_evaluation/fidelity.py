"""How closely a model follows its teacher, exactly over the full vocabulary.

Legend: n rows of a chunk, V the model's vocabulary, U the effective vocabulary shared with the teacher, k top entries.
"""

from __future__ import annotations

import torch
from torch import Tensor

from distill_core.engine.row_pass import evaluate_rows
from distill_core.engine.totals import DocumentTotals, PositionTotals
from distill_core.errors import SignalError
from distill_core.interfaces import EvaluatedRows, EvaluationContext, Measurement
from distill_evaluation.options import FidelityOptions


class Fidelity:
    """Evaluator ``fidelity``: teacher ``p``, model ``q``, at temperature 1, nothing truncated or sampled.

    - ``forward_kl`` ``sum_v p (log p - log q)`` and ``reverse_kl`` ``sum_v q (log q - log p)``, nat per token, summed
      over every token of the effective vocabulary; ``detail["by_position"]`` has the forward one by position.
    - ``top1_agreement``: share of rows where both find the same token most likely.
    - ``top{k}_overlap``: ``|top-k(p) & top-k(q)| / k``.

    ``p`` is normalised over the effective vocabulary. In the forward KL ``q`` is the softmax over all rows of the
    model's head, so mass on padding rows costs; in the reverse KL, where ``p`` has none there, ``q`` is normalised over
    the effective vocabulary too. The KL is computed in fp32 and summed in fp64.
    """

    def __init__(self, options: FidelityOptions | None = None) -> None:
        self.options = options or FidelityOptions()

    def begin(self, context: EvaluationContext) -> _FidelityRows | None:
        if context.is_teacher:
            return None
        if not context.teacher_rows:
            raise SignalError(f"fidelity compares with the teacher's full distribution, but {context.teacher_missing}")
        rows = _FidelityRows(self.options.overlap_k, "nat/row" if context.labels else "nat/token")
        # Two sets of all classes always overlap.
        rows.shows_overlap = not context.labels or len(context.labels) > self.options.overlap_k
        return rows

    def evaluate(self, context: EvaluationContext) -> list[Measurement]:
        return evaluate_rows(self, context)


class _FidelityRows:
    def __init__(self, overlap_k: int, unit: str) -> None:
        self.overlap_k, self.unit, self.shows_overlap = overlap_k, unit, True
        self.forward, self.reverse = DocumentTotals(), DocumentTotals()
        self.top1, self.overlap = DocumentTotals(), DocumentTotals()
        self.positions = PositionTotals()

    def update(self, rows: EvaluatedRows) -> None:
        assert rows.teacher_logits_nU is not None
        width = min(rows.effective_vocabulary, rows.logits_nV.shape[1], rows.teacher_logits_nU.shape[1])
        teacher_nU = self._teacher(rows, width)
        student_nU = rows.logp_nV[:, :width]
        forward_n = kl(teacher_nU, student_nU)
        self.forward.add(rows, forward_n)
        self.positions.add(rows, forward_n)
        if width < rows.logp_nV.shape[1]:
            student_nU = student_nU.log_softmax(dim=1)
        self.reverse.add(rows, kl(student_nU, teacher_nU))
        k = min(self.overlap_k, width)
        teacher_nk, student_nk = self._teacher_top(rows, teacher_nU, k), student_nU.topk(k, dim=1).indices
        self.top1.add(rows, (teacher_nk[:, 0] == student_nk[:, 0]).float())
        shared_nk = (teacher_nk[:, :, None] == student_nk[:, None, :]).any(dim=2)
        self.overlap.add(rows, shared_nk.float().mean(dim=1))

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
        n = self.forward.count
        detail = {"by_position": self.positions.series()}
        kls = [
            ("forward_kl", "KL to the teacher", self.forward, detail, True),
            ("reverse_kl", "Reverse KL", self.reverse, {}, False),
        ]
        shares = [
            ("top1_agreement", "Top-1 agreement", self.top1),
            (f"top{self.overlap_k}_overlap", f"Top-{self.overlap_k} overlap", self.overlap),
        ][: 2 if self.shows_overlap else 1]
        return [
            Measurement(metric, totals.value, self.unit, n, False, totals.sums(), extra, label=label, primary=primary)
            for metric, label, totals, extra, primary in kls
        ] + [
            Measurement(metric, totals.value, "fraction", n, True, totals.sums(), {}, label=label)
            for metric, label, totals in shares
        ]


def kl(p_logp_nV: Tensor, q_logp_nV: Tensor) -> Tensor:
    """``sum_v p (log p - log q)`` per row; terms with p = 0 are 0, p > 0 where q = 0 gives +inf.

    >>> import torch
    >>> kl(torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.25, 0.75]]).log())
    tensor([0.1438])
    """
    difference_nV = p_logp_nV - q_logp_nV
    value_n = torch.linalg.vecdot(p_logp_nV.exp(), difference_nV)
    if value_n.isnan().any():  # 0 * inf, where p = 0
        difference_nV.masked_fill_(p_logp_nV == -float("inf"), 0.0)
        value_n = torch.linalg.vecdot(p_logp_nV.exp(), difference_nV)
    return value_n
