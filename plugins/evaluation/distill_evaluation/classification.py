"""How well a classifier predicts held-out classes.

Legend: n rows of a chunk, N all rows, V classes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from distill_core.engine.row_pass import evaluate_rows
from distill_core.engine.totals import DocumentTotals, documents_of
from distill_core.errors import SignalError
from distill_core.interfaces import EvaluatedRows, EvaluationContext, Measurement
from distill_core.options import NoOptions


class Classification:
    """Evaluator ``classification``, for runs with a task.

    - ``accuracy``: share of rows whose most likely class is the label.
    - ``macro_f1``: mean over the classes that occur, as label or as prediction, of
      ``F1_c = 2 TP_c / (2 TP_c + FP_c + FN_c)``; ``detail["by_class"]`` has each with its number of labels.
    - ``cross_entropy``, nat per row: ``-log q(label)``.

    The standard error of the macro F1 is that of its linearisation (delta method): a row adds
    ``sum_c (2 tp_c - F1_c (2 tp_c + fp_c + fn_c)) / (C D_c)`` with ``D_c`` the denominator above and C such classes.
    """

    aspect = "utility"

    def __init__(self, options: NoOptions | None = None) -> None:
        self.options = options or NoOptions()

    def begin(self, context: EvaluationContext) -> _ClassificationRows:
        if not context.labels:
            raise SignalError(
                "classification measures the classes of a task, but this run predicts tokens: language-model"
            )
        return _ClassificationRows(context.labels)

    def evaluate(self, context: EvaluationContext) -> list[Measurement]:
        return evaluate_rows(self, context)


class _ClassificationRows:
    def __init__(self, labels: tuple[str, ...]) -> None:
        self.labels = labels
        self.nats, self.correct = DocumentTotals(), DocumentTotals()
        self.true: list[Tensor] = []
        self.predicted: list[Tensor] = []
        self.document: list[Tensor] = []
        self.documents: dict[str, int] = {}

    def update(self, rows: EvaluatedRows) -> None:
        predicted_n = rows.best_n[1]
        self.nats.add(rows, -rows.logp_nV.gather(1, rows.labels_n[:, None])[:, 0])
        self.correct.add(rows, (predicted_n == rows.labels_n).float())
        numbers = [self.documents.setdefault(document, len(self.documents)) for document in documents_of(rows)]
        self.true.append(rows.labels_n.cpu())
        self.predicted.append(predicted_n.cpu())
        self.document.append(torch.tensor(numbers)[rows.sequence_n.cpu()])

    def measurements(self) -> list[Measurement]:
        n = self.nats.count
        value, sums, by_class = self._macro_f1()
        return [
            Measurement(
                "accuracy",
                self.correct.value,
                "fraction",
                n,
                True,
                self.correct.sums(),
                {},
                label="Accuracy",
                primary=True,
            ),
            Measurement("macro_f1", value, "fraction", n, True, sums, {"by_class": by_class}, label="Macro F1"),
            Measurement(
                "cross_entropy", self.nats.value, "nat/row", n, False, self.nats.sums(), {}, label="Cross-entropy"
            ),
        ]

    def _macro_f1(self) -> tuple[float, dict[str, tuple[float, float]], list[dict[str, Any]]]:
        """The value, per document (linearised sum, rows), and each class."""
        empty = torch.zeros(0, dtype=torch.int64)
        true_N, predicted_N = torch.cat([empty, *self.true]), torch.cat([empty, *self.predicted])
        document_N, classes = torch.cat([empty, *self.document]), len(self.labels)
        f1_V, denominator_V = class_f1(true_N, predicted_N, classes)
        occurs_V = denominator_V > 0
        count = int(occurs_V.sum())
        value = float(f1_V[occurs_V].mean()) if count else float("nan")
        safe_V = denominator_V.clamp_min(1)
        # Each row counts once for its label and once for its prediction; a hit adds 2 to the numerator.
        share_V = f1_V / safe_V / max(count, 1)
        hit_N = (true_N == predicted_N).double() * 2 / safe_V[true_N] / max(count, 1)
        influence_N = hit_N - share_V[true_N] - share_V[predicted_N]
        size, n = len(self.documents), len(true_N)
        totals = (torch.bincount(document_N, weights=influence_N, minlength=size) * n).tolist()
        counts = torch.bincount(document_N, minlength=size).tolist()
        sums = {
            name: (counts[number] * value + totals[number], float(counts[number]))
            for name, number in self.documents.items()
        }
        support = torch.bincount(true_N, minlength=classes).tolist()
        by_class = [
            {"label": label, "f1": float(f1_V[index]) if occurs_V[index] else None, "n": support[index]}
            for index, label in enumerate(self.labels)
        ]
        return value, sums, by_class


def class_f1(true_N: Tensor, predicted_N: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """[V] F1 of each class (0 where it never occurs) and its denominator ``2 TP + FP + FN``, float64.

    >>> class_f1(torch.tensor([0, 0, 1]), torch.tensor([0, 1, 1]), 3)[0].tolist()
    [0.6666666666666666, 0.6666666666666666, 0.0]
    """
    labels_V = torch.bincount(true_N, minlength=classes).double()
    guesses_V = torch.bincount(predicted_N, minlength=classes).double()
    hits_V = torch.bincount(true_N[true_N == predicted_N], minlength=classes).double()
    denominator_V = labels_V + guesses_V
    return 2 * hits_V / denominator_V.clamp_min(1), denominator_V
