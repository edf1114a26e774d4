"""Whether a model's confidence in its most likely token is deserved.

Legend: n rows of a chunk, N all rows.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from distill_core.engine.row_pass import evaluate_rows
from distill_core.engine.totals import DocumentTotals, documents_of
from distill_core.interfaces import EvaluatedRows, EvaluationContext, Measurement
from distill_evaluation.options import CalibrationOptions


class Calibration:
    """Evaluator ``calibration``.

    - ``ece``, ``ece_width``: expected calibration error of the most likely token, bins of equal mass and of equal
      width: ``ECE = sum_b (n_b / N) |accuracy_b - confidence_b|`` (Guo et al., arXiv 1706.04599, equation 3; equal
      mass: Nguyen and O'Connor, EMNLP 2015). Rows of equal confidence share a bin: their order has no influence.
    - ``brier``: ``sum_v (q_v - [v is the label])^2`` over the whole vocabulary (Brier 1950): 0 to 2.

    ``detail["reliability"]`` has confidence, accuracy and rows of each bin.

    The standard error of an ECE takes bins and the signs of their gaps as given: ``ECE = 1/N sum_rows s_b (correct -
    confidence)`` with ``s_b`` the sign of bin b's gap, a plain mean over rows. ECE is biased upwards by about what
    chance gives to a perfectly calibrated model; compare models on the same rows.
    """

    aspect = "calibration"

    def __init__(self, options: CalibrationOptions | None = None) -> None:
        self.options = options or CalibrationOptions()

    def begin(self, context: EvaluationContext) -> CalibrationRows:
        return CalibrationRows(self.options.bins)

    def evaluate(self, context: EvaluationContext) -> list[Measurement]:
        return evaluate_rows(self, context)


class CalibrationRows:
    """Collects confidence and correctness of every row, and sums of the Brier score and the nats.

    Args:
        bins: number of bins of either kind.
        prefix: put before the metrics' names.
        suffix: put behind their labels.
    """

    def __init__(self, bins: int, *, prefix: str = "", suffix: str = "") -> None:
        self.bins, self.prefix, self.suffix = bins, prefix, suffix
        self.confidence: list[Tensor] = []
        self.correct: list[Tensor] = []
        self.document: list[Tensor] = []
        self.documents: dict[str, int] = {}
        self.brier, self.nats = DocumentTotals(), DocumentTotals()

    def update(self, rows: EvaluatedRows) -> None:
        best_n, token_n = rows.best_n
        numbers = [self.documents.setdefault(document, len(self.documents)) for document in documents_of(rows)]
        self.confidence.append(best_n.exp().double().cpu())
        self.correct.append((token_n == rows.labels_n).double().cpu())
        self.document.append(torch.tensor(numbers)[rows.sequence_n.cpu()])
        label_n = rows.logp_nV.gather(1, rows.labels_n[:, None])[:, 0]
        squares_n = (2 * rows.logp_nV).exp_().sum(dim=1)
        self.brier.add(rows, squares_n - 2 * label_n.exp() + 1)
        self.nats.add(rows, -label_n)

    def measurements(self) -> list[Measurement]:
        empty = torch.zeros(0, dtype=torch.float64)
        confidence_N, correct_N = torch.cat([empty, *self.confidence]), torch.cat([empty, *self.correct])
        mass_N = equal_mass_bins(confidence_N, self.bins)
        width_N = equal_width_bins(confidence_N, self.bins)
        return [
            self._ece("ece", "Calibration error", mass_N, confidence_N, correct_N),
            self._ece("ece_width", "Calibration error, equal width", width_N, confidence_N, correct_N),
            self._mean("brier", "Brier score", self.brier, ""),
        ]

    def nats_measurement(self, unit: str) -> Measurement:
        """The mean negative log-likelihood of the labels, as ``cross_entropy``."""
        return self._mean("cross_entropy", "Cross-entropy", self.nats, unit)

    def _mean(self, metric: str, label: str, totals: DocumentTotals, unit: str) -> Measurement:
        name, text = self.prefix + metric, label + self.suffix
        return Measurement(name, totals.value, unit, totals.count, False, totals.sums(), {}, label=text)

    def _ece(self, metric: str, label: str, bin_N: Tensor, confidence_N: Tensor, correct_N: Tensor) -> Measurement:
        document_N = torch.cat([torch.zeros(0, dtype=torch.int64), *self.document])
        gap_N = correct_N - confidence_N
        sign_b = torch.bincount(bin_N, weights=gap_N, minlength=self.bins).sign()
        signed_N = sign_b[bin_N] * gap_N
        size, n = len(self.documents), len(bin_N)
        totals = torch.bincount(document_N, weights=signed_N, minlength=size).tolist()
        counts = torch.bincount(document_N, minlength=size).tolist()
        sums = {name: (totals[number], float(counts[number])) for name, number in self.documents.items()}
        value = float(signed_N.sum() / n) if n else math.nan
        detail = {"reliability": reliability(bin_N, confidence_N, correct_N)}
        name, text = self.prefix + metric, label + self.suffix
        return Measurement(name, value, "fraction", n, False, sums, detail, label=text)


def equal_mass_bins(confidence_N: Tensor, bins: int) -> Tensor:
    """Bin of each row: ``floor(bins * rank / N)`` with the rank of the first row of equal confidence.

    >>> equal_mass_bins(torch.tensor([0.9, 0.1, 0.5, 0.5]), 4).tolist()
    [3, 0, 1, 1]
    """
    _, inverse_N, count_u = confidence_N.unique(sorted=True, return_inverse=True, return_counts=True)
    first_rank_u = count_u.cumsum(0) - count_u
    return first_rank_u[inverse_N] * bins // max(len(confidence_N), 1)


def equal_width_bins(confidence_N: Tensor, bins: int) -> Tensor:
    """Bin of each row: ``floor(bins * confidence)``, 1 in the last one.

    >>> equal_width_bins(torch.tensor([0.0, 0.49, 0.5, 1.0]), 2).tolist()
    [0, 0, 1, 1]
    """
    return (confidence_N * bins).long().clamp(0, bins - 1)


def reliability(bin_N: Tensor, confidence_N: Tensor, correct_N: Tensor) -> list[dict[str, Any]]:
    """Mean confidence and accuracy of each bin that has rows."""
    counts = torch.bincount(bin_N).tolist()
    confidences = torch.bincount(bin_N, weights=confidence_N).tolist()
    corrects = torch.bincount(bin_N, weights=correct_N).tolist()
    return [
        {"confidence": confidence / count, "accuracy": correct / count, "n": count}
        for count, confidence, correct in zip(counts, confidences, corrects, strict=True)
        if count
    ]
