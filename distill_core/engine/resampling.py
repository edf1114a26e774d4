"""Standard errors and intervals by leaving documents out, and by drawing them again. Needs numpy, not torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from distill_core.engine.statistics import DocumentSums


@dataclass(frozen=True)
class Bootstrap:
    """A difference with its percentile interval.

    Args:
        difference: model - baseline on the documents as they are.
        standard_error: standard deviation over the draws.
        interval: percentiles of the draws; NaN ends for fewer than two documents.
        n_documents: documents that were drawn from.
        draws: how often.
    """

    difference: float
    standard_error: float
    interval: tuple[float, float]
    n_documents: int
    draws: int


def paired_bootstrap(
    model: DocumentSums, baseline: DocumentSums, *, draws: int = 2000, seed: int = 0, confidence: float = 0.95
) -> Bootstrap:
    """``R_m - R_b`` under resampling of whole documents, the same documents for both (Efron 1979, clustered).

    Each draw takes D documents with replacement and computes both ratios ``sum s_d / sum n_d`` on them. Percentile
    intervals are a little short for few documents: about ``sqrt((D - 1) / D)`` of the t interval; use them to check
    :func:`distill_core.engine.statistics.paired_difference`, whose intervals the verdicts rest on.

    Args:
        model, baseline: per document, (sum, denominator), on the same documents.
        draws: number of resamples.
        seed: of the draws.
        confidence: of the two-sided interval, in (0, 1).

    Raises:
        ValueError: different documents, or ``draws`` below 1.

    >>> sums = {"a": (1.0, 1.0), "b": (2.0, 1.0)}
    >>> paired_bootstrap(sums, sums).interval
    (0.0, 0.0)
    """
    if draws < 1:
        raise ValueError(f"draws must be at least 1, got {draws}")
    names = sorted(document for document, (_, count) in model.items() if count)
    if set(names) != {document for document, (_, count) in baseline.items() if count}:
        raise ValueError("model and baseline must be measured on the same documents: evaluate both on one held-out set")
    size = len(names)
    sums_4D = np.array([[*model[name], *baseline[name]] for name in names], dtype=np.float64).reshape(size, 4).T
    if size < 2:
        point = float(_difference(sums_4D.sum(axis=1))) if size else math.nan
        return Bootstrap(point, math.nan, (math.nan, math.nan), size, draws)
    # How often each document is drawn: one multinomial per draw.
    counts_RD = np.random.default_rng(seed).multinomial(size, np.full(size, 1 / size), size=draws)
    drawn_R = _difference(counts_RD @ sums_4D.T)
    low, high = np.quantile(drawn_R, [0.5 - confidence / 2, 0.5 + confidence / 2])
    point = float(_difference(sums_4D.sum(axis=1)))
    return Bootstrap(
        point, float(drawn_R.std(ddof=1)) if draws > 1 else math.nan, (float(low), float(high)), size, draws
    )


def _difference(sums_4: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    difference: npt.NDArray[np.float64] = sums_4[..., 0] / sums_4[..., 1] - sums_4[..., 2] / sums_4[..., 3]
    return difference


def jackknife_sums(value: float, left_out: Mapping[str, float]) -> dict[str, tuple[float, float]]:
    """Document sums of a figure that is no ratio of sums, so that errors and pairing work as for one that is.

    Pseudo-values ``value + (D - 1) (mean_j R_{-j} - R_{-d})`` with ``R_{-d}`` the figure without document d, each with
    denominator 1: their mean is ``value``, and the clustered standard error of that mean is the jackknife's,
    ``SE^2 = (D - 1) / D sum_d (R_{-d} - mean)^2`` (Tukey 1958; Efron and Stein 1981).

    Args:
        value: the figure on all documents.
        left_out: the figure without each document.

    >>> jackknife_sums(2.0, {"a": 2.5, "b": 1.5})
    {'a': (1.5, 1.0), 'b': (2.5, 1.0)}
    """
    size = len(left_out)
    mean = math.fsum(left_out.values()) / size if size else math.nan
    return {document: (value + (size - 1) * (mean - without), 1.0) for document, without in left_out.items()}
