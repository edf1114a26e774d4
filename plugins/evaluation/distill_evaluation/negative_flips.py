"""What a new revision of a model gets wrong that the old one had right.

Legend: n rows of a chunk.
"""

from __future__ import annotations

from typing import Any

import torch

from distill_core.engine.row_pass import row_pass, scorer_of
from distill_core.engine.totals import DocumentTotals
from distill_core.interfaces import EvaluatedRows, EvaluationContext, Measurement
from distill_evaluation.continual_options import NegativeFlipsOptions
from distill_evaluation.fidelity import kl

BEFORE = "(before)"


class NegativeFlips:
    """Evaluator ``negative-flips``: a model against the older revision that ``before`` names for it.

    - ``negative_flips``: share of rows the old one had right and the new one has wrong; ``positive_flips`` the other
      way round (Yan et al., arXiv 2011.09161). Their difference is the change of accuracy, which hides both.
    - ``revision_kl``, nat per row: mean of ``KL(new || old)`` over the vocabulary.
    - ``relabelled_share``: share of rows where it exceeds ``bound_nat``: what an update of stored labels
      (``capture.update``) would capture anew if it saw the whole distribution.
    """

    aspect = "continual"

    def __init__(self, options: NegativeFlipsOptions) -> None:
        self.options = options

    def evaluate(self, context: EvaluationContext) -> list[Measurement]:
        source = self.options.before.get(context.name)
        if source is None:
            return []
        older = type(context.model).from_pretrained(source, dtype=torch.float32).to(context.model.device).eval()
        rows = _FlipRows(self.options.bound_nat)
        row_pass(
            context.batches(),
            {context.name: scorer_of(context.model, context.labels), BEFORE: scorer_of(older, context.labels)},
            {context.name: [rows]},
            teacher=BEFORE,
            effective_vocabulary=len(context.labels) or len(context.tokenizer),
        )
        return rows.measurements()


class _FlipRows:
    def __init__(self, bound_nat: float) -> None:
        self.bound_nat = bound_nat
        self.lost, self.won, self.kl, self.moved = (DocumentTotals() for _ in range(4))

    def update(self, rows: EvaluatedRows) -> None:
        assert rows.teacher_logits_nU is not None
        now_n = rows.best_n[1] == rows.labels_n
        before_n = rows.teacher_logits_nU.argmax(dim=1) == rows.labels_n
        self.lost.add(rows, (before_n & ~now_n).float())
        self.won.add(rows, (~before_n & now_n).float())
        width = min(rows.logits_nV.shape[1], rows.teacher_logits_nU.shape[1])
        new, old = (logits[:, :width].log_softmax(dim=1) for logits in (rows.logits_nV, rows.teacher_logits_nU))
        moved_n = kl(new, old)
        self.kl.add(rows, moved_n)
        self.moved.add(rows, (moved_n > self.bound_nat).float())

    def measurements(self) -> list[Measurement]:
        entries: tuple[tuple[str, str, DocumentTotals, str, bool, dict[str, Any]], ...] = (
            ("negative_flips", "Right before, wrong now", self.lost, "fraction", False, {}),
            ("positive_flips", "Wrong before, right now", self.won, "fraction", True, {}),
            ("revision_kl", "KL to the older revision", self.kl, "nat/row", False, {}),
            ("relabelled_share", "Rows to label anew", self.moved, "fraction", False, {"bound_nat": self.bound_nat}),
        )
        return [
            Measurement(metric, t.value, unit, t.count, higher, t.sums(), detail, label=label)
            for metric, label, t, unit, higher, detail in entries
        ]
