"""Calibration after one temperature was fitted, on documents that are not reported.

Legend: n rows of a chunk, V vocabulary, G inverse temperatures of the grid, D documents.
"""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from distill_core.engine.resampling import jackknife_sums
from distill_core.engine.row_pass import row_pass, scorer_of
from distill_core.engine.totals import documents_of
from distill_core.errors import SignalError
from distill_core.interfaces import EvaluatedRows, EvaluationContext, Measurement
from distill_core.types import TokenBatch
from distill_evaluation.calibration import CalibrationRows
from distill_evaluation.options import TemperatureScalingOptions

GRID = np.geomspace(0.25, 4.0, 25)
"""Inverse temperatures at which the gradient is taken; between them it is interpolated."""


class TemperatureScaling:
    """Evaluator ``temperature-scaling``: what of a model's miscalibration one temperature mends.

    ``T`` minimises the cross-entropy of ``softmax(z / T)`` on the documents of the fitting part (Guo et al., arXiv
    1706.04599, section 4.2); everything below is measured on the others. Which part a document is in depends on its
    name alone, so all models share the parts.

    - ``fitted_temperature``: T; above 1 the model was too sure. Its error is the infinitesimal jackknife's over the
      fitting documents.
    - ``scaled_ece``, ``scaled_ece_width``, ``scaled_brier``, ``scaled_cross_entropy``: after scaling;
      ``detail["before"]`` has the figure before it on the same rows.
    """

    aspect = "calibration"

    def __init__(self, options: TemperatureScalingOptions | None = None) -> None:
        self.options = options or TemperatureScalingOptions()

    def evaluate(self, context: EvaluationContext) -> list[Measurement]:
        fit = _Fit()
        self._pass(context, fit.update, fitting=True)
        if len(fit.gradient) < 1:
            raise SignalError(
                "temperature-scaling found no document to fit on: hold out more documents, or raise fit_share"
            )
        inverse = fit.root()
        parts = [CalibrationRows(self.options.bins) for _ in range(2)]

        def both(rows: EvaluatedRows) -> None:
            parts[0].update(rows)
            parts[1].update(replace(rows, logits_nV=rows.logits_nV * inverse))

        self._pass(context, both, fitting=False)
        if not parts[0].nats.count:
            raise SignalError(
                "temperature-scaling found no document to report on: hold out more documents, or lower fit_share"
            )
        unit = "nat/row" if context.labels else "nat/token"
        before, after = ([*part.measurements(), part.nats_measurement(unit)] for part in parts)
        shared = {"temperature": 1 / inverse, "fitted_on_documents": len(fit.gradient)}
        return [fit.measurement(inverse)] + [
            replace(
                now,
                metric=f"scaled_{now.metric}",
                label=f"{now.label} after scaling",
                detail={**now.detail, "before": was.value, **shared},
            )
            for was, now in zip(before, after, strict=True)
        ]

    def _pass(self, context: EvaluationContext, update: Callable[[EvaluatedRows], None], *, fitting: bool) -> None:
        class Sink:
            def update(self, rows: EvaluatedRows) -> None:
                update(rows)

            def measurements(self) -> list[Measurement]:
                return []

        row_pass(
            self._part(context, fitting),
            {context.name: scorer_of(context.model, context.labels)},
            {context.name: [Sink()]},
            teacher=None,
            effective_vocabulary=len(context.labels) or len(context.tokenizer),
        )

    def _part(self, context: EvaluationContext, fitting: bool) -> Iterator[TokenBatch]:
        for batch in context.batches():
            share = self.options.fit_share
            kept = [i for i, name in enumerate(batch.documents) if (_uniform(name) < share) == fitting]
            if kept:
                yield batch.take(kept)


def _uniform(document: str) -> float:
    """A number in [0, 1) that depends on the name alone."""
    digest = hashlib.sha256(document.encode("utf-8", errors="replace")).digest()
    return int.from_bytes(digest[:8], "big") / 2.0**64


class _Fit:
    """First and second derivatives of the nats by the inverse temperature on a grid, by document.

    ``d/db [logsumexp(b z) - b z_y] = E_b[z] - z_y``; the second derivative is the variance of z under ``softmax(b z)``.
    """

    def __init__(self) -> None:
        self.gradient: defaultdict[str, Any] = defaultdict(lambda: np.zeros(len(GRID)))
        self.curvature: defaultdict[str, Any] = defaultdict(lambda: np.zeros(len(GRID)))
        self.rows = 0

    def update(self, rows: EvaluatedRows) -> None:
        logits_nV = rows.logits_nV - rows.logits_nV.amax(dim=1, keepdim=True)
        label_n = logits_nV.gather(1, rows.labels_n[:, None])[:, 0].double()
        names = documents_of(rows)
        self.rows += len(label_n)
        finite_nV = logits_nV.masked_fill(logits_nV == -math.inf, 0.0)  # probability 0 times -inf counts nothing
        for at, inverse in enumerate(GRID):
            weight_nV = (inverse * logits_nV).exp_()
            total_n = weight_nV.sum(dim=1).double()
            mean_n = torch.linalg.vecdot(weight_nV, finite_nV).double() / total_n
            square_n = torch.linalg.vecdot(weight_nV, finite_nV.square()).double() / total_n
            by_document = [
                torch.bincount(rows.sequence_n, weights=values_n, minlength=len(names)).tolist()
                for values_n in (mean_n - label_n, square_n - mean_n.square())
            ]
            for index in set(rows.sequence_n.tolist()):
                self.gradient[names[index]][at] += by_document[0][index]
                self.curvature[names[index]][at] += by_document[1][index]

    def root(self) -> float:
        """The inverse temperature where the gradient is 0, by bisection of its Hermite interpolation; at most at the
        ends of the grid."""
        value_G = np.sum(list(self.gradient.values()), axis=0)
        slope_G = np.sum(list(self.curvature.values()), axis=0)
        low, high = GRID[0], GRID[-1]
        if value_G[0] >= 0 or value_G[-1] <= 0:
            return float(low if value_G[0] >= 0 else high)
        while high - low > 1e-9:
            middle = (low + high) / 2
            low, high = (middle, high) if hermite(middle, GRID, value_G, slope_G) < 0 else (low, middle)
        return float((low + high) / 2)

    def measurement(self, inverse: float) -> Measurement:
        curvature = float(np.interp(inverse, GRID, np.sum(list(self.curvature.values()), axis=0)))
        left_out = {}
        for document in self.gradient:
            one = hermite(inverse, GRID, self.gradient[document], self.curvature[document])
            left_out[document] = 1 / max(inverse + one / curvature, 1e-6) if curvature > 0 else 1 / inverse
        sums = jackknife_sums(1 / inverse, left_out)
        at_end = inverse in (GRID[0], GRID[-1])
        return Measurement(
            "fitted_temperature", 1 / inverse, "", self.rows, None, sums, {"at_the_end_of_the_grid": at_end},
            label="Fitted temperature",
        )  # fmt: skip


def hermite(x: float, grid: Any, value: Any, slope: Any) -> float:
    """Cubic Hermite interpolation of a function known with its slope on a grid.

    >>> round(hermite(1.5, np.array([1.0, 2.0]), np.array([1.0, 8.0]), np.array([3.0, 12.0])), 12)  # x^3
    3.375
    """
    right = int(np.clip(np.searchsorted(grid, x), 1, len(grid) - 1))
    left, step = right - 1, grid[right] - grid[right - 1]
    t = (x - grid[left]) / step
    return float(
        (2 * t**3 - 3 * t**2 + 1) * value[left]
        + (t**3 - 2 * t**2 + t) * step * slope[left]
        + (3 * t**2 - 2 * t**3) * value[right]
        + (t**3 - t**2) * step * slope[right]
    )
