"""Standard errors clustered by document, paired comparisons, and when one model may be called better.

Rows of one document are not independent, so the unit of sampling is the document. A metric is a ratio of sums over
documents, ``R = sum_d s_d / sum_d n_d`` (``n_d``: rows, or bytes); its standard error is the linearised (Taylor) one
of the ratio estimator (Cochran, *Sampling Techniques*, 3rd ed., section 6; Miller, arXiv 2411.00640, equation 4, for
language-model evaluations)::

    SE(R)^2 = D / (D - 1) * sum_d ((s_d - R n_d) / sum n)^2

with ``D`` documents, and intervals use Student's t with ``D - 1`` degrees of freedom. Two models measured on the same
documents are compared by the document-wise difference of the same linearised terms, which cancels what is hard about
a document for both.

Nothing here needs torch or scipy.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

FEW_DOCUMENTS = 8
"""Below so many documents the normal theory behind the intervals is thin, and a warning says so."""

DECISIVE_STANDARD_ERRORS = 2.0
"""A difference is called one only beyond so many standard errors of the paired difference."""

DocumentSums = Mapping[str, tuple[float, float]]
"""Per document id: (sum of the metric, number of rows or bytes it was summed over)."""

Verdict = Literal["better", "worse", "no clear difference", "undecidable"]


@dataclass(frozen=True)
class Estimate:
    """A figure with its uncertainty.

    Args:
        value: sum over documents / sum of denominators; NaN where there is nothing to divide by.
        standard_error: clustered by document; NaN for fewer than two documents.
        interval: two-sided t interval; NaN ends for fewer than two documents.
        n_documents: documents with a denominator above 0.
    """

    value: float
    standard_error: float
    interval: tuple[float, float]
    n_documents: int


@dataclass(frozen=True)
class PairedDifference:
    """``model - baseline`` on the same documents; see :func:`paired_difference`."""

    difference: float
    standard_error: float
    interval: tuple[float, float]
    p_value: float
    n_documents: int


def estimate(sums: DocumentSums, *, confidence: float = 0.95) -> Estimate:
    """A ratio of sums with its document-clustered standard error and t interval.

    Args:
        sums: per document, (sum, denominator); documents with denominator 0 are left out.
        confidence: of the two-sided interval, in (0, 1).

    Raises:
        ValueError: a negative denominator, or a confidence outside (0, 1).

    >>> result = estimate({"a": (2.0, 1.0), "b": (4.0, 1.0)})
    >>> result.value, result.standard_error
    (3.0, 1.0)
    """
    terms = _linearised(sums)
    value = _ratio(sums)
    standard_error = _standard_error(list(terms.values()))
    half = t_quantile(0.5 + confidence / 2, len(terms) - 1) * standard_error if len(terms) > 1 else math.nan
    return Estimate(value, standard_error, (value - half, value + half), len(terms))


def paired_difference(model: DocumentSums, baseline: DocumentSums, *, confidence: float = 0.95) -> PairedDifference:
    """``model - baseline`` of one metric, paired by document.

    ``d = R_m - R_b``; ``SE^2 = D/(D-1) sum_d (z_d^m - z_d^b)^2`` with ``z_d = (s_d - R n_d) / sum n``. The p value is
    two-sided, from Student's t with ``D - 1`` degrees of freedom. Equal models give difference 0, error 0, p 1.

    Args:
        model, baseline: per document, (sum, denominator).
        confidence: of the two-sided interval, in (0, 1).

    Raises:
        ValueError: the two were not measured on the same documents.

    >>> paired_difference({"a": (1, 1), "b": (2, 1)}, {"a": (2, 1), "b": (3, 1)}).difference
    -1.0
    """
    terms, others = _linearised(model), _linearised(baseline)
    if terms.keys() != others.keys():
        odd = sorted(terms.keys() ^ others.keys())[:3]
        raise ValueError(
            f"model and baseline must be measured on the same documents, but {len(terms.keys() ^ others.keys())} "
            f"appear in one alone, for instance {odd}: evaluate both on one held-out set"
        )
    difference = _ratio(model) - _ratio(baseline)
    standard_error = _standard_error([terms[document] - others[document] for document in terms])
    degrees = len(terms) - 1
    if degrees < 1:
        return PairedDifference(difference, math.nan, (math.nan, math.nan), math.nan, len(terms))
    half = t_quantile(0.5 + confidence / 2, degrees) * standard_error
    if standard_error == 0:
        p_value = 1.0 if difference == 0 else 0.0
    else:
        p_value = 2 * t_cdf(-abs(difference) / standard_error, degrees)
    return PairedDifference(difference, standard_error, (difference - half, difference + half), p_value, len(terms))


@dataclass(frozen=True)
class Relative:
    """A figure made of several models' figures on the same documents; ``reason`` says why it is NaN."""

    value: float
    standard_error: float
    interval: tuple[float, float]
    n_documents: int
    reason: str = ""


def ratio_of_figures(model: DocumentSums, reference: DocumentSums, *, confidence: float = 0.95) -> Relative:
    """``R_m / R_t``, paired by document: ``z_d = (z_d^m - (R_m / R_t) z_d^t) / R_t`` (delta method).

    Raises:
        ValueError: the two were not measured on the same documents.

    >>> ratio_of_figures({"a": (1, 1), "b": (1, 1)}, {"a": (2, 1), "b": (2, 1)}).value
    0.5
    """
    terms, others = _paired_terms(model, reference)
    ours, theirs = _ratio(model), _ratio(reference)
    if not theirs:
        return Relative(math.nan, math.nan, (math.nan, math.nan), len(terms), "the reference is 0")
    ratio = ours / theirs
    return _relative(ratio, [(terms[d] - ratio * others[d]) / theirs for d in terms], confidence)


def gap_closed(
    model: DocumentSums, teacher: DocumentSums, baseline: DocumentSums, *, confidence: float = 0.95
) -> Relative:
    """``(R_m - R_b) / (R_t - R_b)``: 0 at the baseline, 1 at the teacher; direction does not matter.

    The delta method, paired by document: ``z_d = (z_d^m - z_d^b - g (z_d^t - z_d^b)) / (R_t - R_b)``. A gap that two
    standard errors do not tell from 0 gives NaN and the reason: a share of it would say nothing.

    Raises:
        ValueError: the three were not measured on the same documents.

    >>> sums = [{"a": (v, 1), "b": (v, 1)} for v in (3.0, 2.0, 4.0)]
    >>> gap_closed(*sums).value
    0.5
    """
    terms, ours = _paired_terms(model, teacher)
    _, low = _paired_terms(model, baseline)
    gap = _ratio(teacher) - _ratio(baseline)
    spread = _standard_error([ours[d] - low[d] for d in terms])
    if not math.isfinite(spread) or not abs(gap) > DECISIVE_STANDARD_ERRORS * spread:
        reason = "the teacher is not told from the baseline by two standard errors"
        return Relative(math.nan, math.nan, (math.nan, math.nan), len(terms), reason)
    share = (_ratio(model) - _ratio(baseline)) / gap
    return _relative(share, [(terms[d] - low[d] - share * (ours[d] - low[d])) / gap for d in terms], confidence)


def _paired_terms(model: DocumentSums, other: DocumentSums) -> tuple[dict[str, float], dict[str, float]]:
    terms, others = _linearised(model), _linearised(other)
    if terms.keys() != others.keys():
        odd = sorted(terms.keys() ^ others.keys())[:3]
        raise ValueError(f"both must be measured on the same documents, but {odd} appear in one alone")
    return terms, others


def _relative(value: float, terms: Sequence[float], confidence: float) -> Relative:
    error = _standard_error(terms)
    half = t_quantile(0.5 + confidence / 2, len(terms) - 1) * error if len(terms) > 1 else math.nan
    return Relative(value, error, (value - half, value + half), len(terms))


def paired_seeds(
    model: Mapping[int, float], baseline: Mapping[int, float], *, confidence: float = 0.95
) -> PairedDifference:
    """``model - baseline`` of a figure, paired by seed: what may be said of a *method*, not of trained models.

    Student's t with (seeds - 1) degrees of freedom; ``n_documents`` of the result counts seeds.

    Raises:
        ValueError: the two have different seeds.

    >>> paired_seeds({0: 1.0, 1: 2.0}, {0: 2.0, 1: 3.0}).difference
    -1.0
    """
    if model.keys() != baseline.keys():
        raise ValueError(f"both need the same seeds, got {sorted(model)} and {sorted(baseline)}")
    return paired_difference(
        {str(seed): (value, 1.0) for seed, value in model.items()},
        {str(seed): (value, 1.0) for seed, value in baseline.items()},
        confidence=confidence,
    )


def benjamini_hochberg(p_values: Sequence[float]) -> list[float]:
    """Adjusted p values of Benjamini and Hochberg (J. R. Statist. Soc. B 57, 1995), in the order given; NaN stays NaN.

    ``p~_(i) = min_{j >= i} min(1, m p_(j) / j)``; rejecting at ``p~ <= q`` keeps the expected share of false
    rejections at q, for independent (or positively dependent) tests. For screening many methods; verdicts use Holm.

    >>> [round(p, 3) for p in benjamini_hochberg([0.01, 0.04, 0.03])]
    [0.03, 0.04, 0.04]
    """
    known = sorted((p, index) for index, p in enumerate(p_values) if not math.isnan(p))
    adjusted = [math.nan] * len(p_values)
    running = 1.0
    for rank in range(len(known), 0, -1):
        p, index = known[rank - 1]
        running = min(running, len(known) * p / rank)
        adjusted[index] = running
    return adjusted


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p values, in the order given (Holm, Scand. J. Statist. 6, 1979); NaN stays NaN.

    ``p~_(i) = max_{j <= i} min(1, (m - j + 1) p_(j))``; rejecting at ``p~ <= alpha`` bounds the chance of any false
    rejection in the family by alpha, whatever the dependence.

    >>> [round(p, 3) for p in holm([0.01, 0.04, 0.03])]
    [0.03, 0.06, 0.06]
    """
    known = sorted((p, index) for index, p in enumerate(p_values) if not math.isnan(p))
    adjusted = [math.nan] * len(p_values)
    running = 0.0
    for rank, (p, index) in enumerate(known):
        running = max(running, min(1.0, (len(known) - rank) * p))
        adjusted[index] = running
    return adjusted


def verdict(
    paired: PairedDifference, *, higher_is_better: bool, p_adjusted: float, confidence: float = 0.95
) -> Verdict:
    """What may be said of ``model`` against ``baseline``.

    ``better`` and ``worse`` need both: a paired difference beyond two standard errors, and an adjusted p value of at
    most ``1 - confidence`` (which asks for more than two standard errors where documents or comparisons are few or
    many, respectively). With fewer than two documents nothing can be said.

    >>> verdict(PairedDifference(-0.5, 0.1, (-0.7, -0.3), 0.001, 20), higher_is_better=False, p_adjusted=0.002)
    'better'
    """
    if math.isnan(paired.standard_error) or math.isnan(paired.difference):
        return "undecidable"
    beyond = abs(paired.difference) > DECISIVE_STANDARD_ERRORS * paired.standard_error
    if not beyond or p_adjusted > 1 - confidence:
        return "no clear difference"
    return "better" if (paired.difference > 0) == higher_is_better else "worse"


def few_documents_warning(n_documents: int) -> str | None:
    """A sentence where the held-out set has too few documents for its intervals to be trusted, else None."""
    if n_documents >= FEW_DOCUMENTS:
        return None
    consequence = (
        "no standard error can be given" if n_documents < 2 else "standard errors and intervals are rough guides"
    )
    return (
        f"the held-out set has {n_documents} document{'' if n_documents == 1 else 's'}; with fewer than "
        f"{FEW_DOCUMENTS}, {consequence}: hold out more documents (data.eval)"
    )


def t_cdf(value: float, degrees: float) -> float:
    """Distribution function of Student's t, by the regularised incomplete beta function.

    >>> round(t_cdf(2.0, 10), 6)
    0.963306
    """
    if degrees <= 0:
        raise ValueError(f"degrees of freedom must be above 0, got {degrees}")
    if math.isinf(value):
        return 0.0 if value < 0 else 1.0
    square = value * value
    if square < degrees:  # near the middle the complement would round to 1
        return 0.5 + math.copysign(0.5, value) * _incomplete_beta(0.5, degrees / 2, square / (degrees + square))
    half_tail = 0.5 * _incomplete_beta(degrees / 2, 0.5, degrees / (degrees + square))
    return 1 - half_tail if value > 0 else half_tail


def t_quantile(probability: float, degrees: float) -> float:
    """Quantile of Student's t: the value whose :func:`t_cdf` is ``probability``, in (0, 1), to 1e-12 relative.

    >>> round(t_quantile(0.975, 10), 4)
    2.2281
    """
    if not 0 < probability < 1:
        raise ValueError(f"probability must lie strictly between 0 and 1, got {probability}")
    if probability < 0.5:
        return -t_quantile(1 - probability, degrees)
    low, high = 0.0, 1.0
    while t_cdf(high, degrees) < probability:
        low, high = high, high * 2
    while high - low > 1e-12 * max(1.0, high):
        middle = (low + high) / 2
        low, high = (middle, high) if t_cdf(middle, degrees) < probability else (low, middle)
    return (low + high) / 2


def _ratio(sums: DocumentSums) -> float:
    denominator = math.fsum(count for _, count in sums.values())
    return math.fsum(total for total, count in sums.values() if count) / denominator if denominator else math.nan


def _linearised(sums: DocumentSums) -> dict[str, float]:
    """``(s_d - R n_d) / sum n`` per document with ``n_d > 0``."""
    negative = [document for document, (_, count) in sums.items() if count < 0]
    if negative:
        raise ValueError(f"denominators must not be negative, but document {negative[0]!r} has {sums[negative[0]][1]}")
    kept = {document: pair for document, pair in sums.items() if pair[1] > 0}
    ratio, denominator = _ratio(kept), math.fsum(count for _, count in kept.values())
    return {document: (total - ratio * count) / denominator for document, (total, count) in kept.items()}


def _standard_error(terms: Sequence[float]) -> float:
    if len(terms) < 2:
        return math.nan
    return math.sqrt(len(terms) / (len(terms) - 1) * math.fsum(term * term for term in terms))


def _incomplete_beta(a: float, b: float, x: float) -> float:
    """Regularised incomplete beta I_x(a, b) by its continued fraction (Abramowitz and Stegun 26.5.8)."""
    if x <= 0 or x >= 1:
        return 0.0 if x <= 0 else 1.0
    if x > (a + 1) / (a + b + 2):
        return 1 - _incomplete_beta(b, a, 1 - x)
    log_front = a * math.log(x) + b * math.log1p(-x) + math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
    return math.exp(log_front) / a * _beta_fraction(a, b, x)


def _beta_fraction(a: float, b: float, x: float, *, tiny: float = 1e-300, terms: int = 10_000) -> float:
    """The continued fraction of :func:`_incomplete_beta` by Lentz's method."""
    c, d = 1.0, 1 / _away_from_zero(1 - (a + b) * x / (a + 1), tiny)
    result = d
    for m in range(1, terms):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for factor in (even, odd):
            d = 1 / _away_from_zero(1 + factor * d, tiny)
            c = _away_from_zero(1 + factor / c, tiny)
            result *= c * d
        if abs(c * d - 1) < 1e-15:
            break
    return result


def _away_from_zero(value: float, tiny: float) -> float:
    return tiny if abs(value) < tiny else value
