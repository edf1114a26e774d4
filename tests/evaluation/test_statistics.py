"""Clustered errors, paired differences and verdicts against closed forms, scipy and simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from distill_core.engine.statistics import (
    PairedDifference,
    estimate,
    few_documents_warning,
    holm,
    paired_difference,
    t_cdf,
    t_quantile,
    verdict,
)


@pytest.mark.parametrize("degrees", [1, 2, 3, 7, 30, 249, 100_000])
@pytest.mark.parametrize("probability", [0.001, 0.05, 0.5, 0.9, 0.975, 0.9999])
def test_t_quantile_is_that_of_scipy(degrees: int, probability: float) -> None:
    assert t_quantile(probability, degrees) == pytest.approx(stats.t.ppf(probability, degrees), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("degrees", [1, 2.5, 6, 40, 5000])
@pytest.mark.parametrize("value", [-30.0, -1.7, -1e-2, 0.0, 0.3, 2.0, 9.0, math.inf])
def test_t_cdf_is_that_of_scipy(degrees: float, value: float) -> None:
    assert t_cdf(value, degrees) == pytest.approx(stats.t.cdf(value, degrees), rel=1e-9, abs=1e-15)


@pytest.mark.parametrize("value", [-1e12, -1e-8, 1e-14, 0.3, 1.0, 40.0])
def test_t_cdf_with_one_degree_of_freedom_is_the_cauchy_distribution(value: float) -> None:
    expected = 0.5 + math.atan(value) / math.pi if value > -1 else math.atan(-1 / value) / math.pi
    assert t_cdf(value, 1) == pytest.approx(expected, rel=1e-13)


def test_equal_documents_give_the_t_interval_of_their_means() -> None:
    means = np.random.default_rng(3).normal(2.0, 0.7, size=13)
    result = estimate({f"d{i}": (5 * mean, 5) for i, mean in enumerate(means)}, confidence=0.9)
    assert result.value == pytest.approx(means.mean(), rel=1e-12)
    assert result.standard_error == pytest.approx(stats.sem(means), rel=1e-12)
    low, high = stats.t.interval(0.9, 12, loc=means.mean(), scale=stats.sem(means))
    assert result.interval == pytest.approx((low, high), rel=1e-9)
    assert result.n_documents == 13


def test_unequal_documents_follow_the_ratio_estimator() -> None:
    sums = {"a": (3.0, 2.0), "b": (10.0, 4.0), "c": (1.0, 1.0)}
    ratio = 14 / 7
    expected = math.sqrt(3 / 2 * ((3 - 2 * ratio) ** 2 + (10 - 4 * ratio) ** 2 + (1 - ratio) ** 2) / 49)
    result = estimate(sums)
    assert (result.value, result.standard_error) == pytest.approx((ratio, expected), rel=1e-12)


def test_one_document_none_and_empty_ones() -> None:
    one = estimate({"a": (3.0, 2.0), "empty": (0.0, 0.0)})
    assert (one.value, one.n_documents) == (1.5, 1)
    assert math.isnan(one.standard_error) and all(map(math.isnan, one.interval))
    none = estimate({})
    assert math.isnan(none.value) and none.n_documents == 0
    with pytest.raises(ValueError, match="document 'a' has -1"):
        estimate({"a": (3.0, -1.0)})


def test_paired_difference_of_equal_documents_is_the_paired_t_test() -> None:
    rng = np.random.default_rng(0)
    hard = rng.normal(5, 2, size=20)
    ours, theirs = hard + rng.normal(-0.1, 0.2, size=20), hard + rng.normal(0, 0.2, size=20)
    result = paired_difference(
        {str(i): (7 * x, 7) for i, x in enumerate(ours)}, {str(i): (7 * x, 7) for i, x in enumerate(theirs)}
    )
    test = stats.ttest_rel(ours, theirs)
    assert result.p_value == pytest.approx(test.pvalue, rel=1e-8)
    assert result.interval == pytest.approx(tuple(test.confidence_interval(0.95)), rel=1e-8)
    assert result.difference == pytest.approx((ours - theirs).mean(), rel=1e-12)
    unpaired = math.hypot(stats.sem(ours), stats.sem(theirs))
    assert result.standard_error < unpaired / 3, "pairing must remove what is hard about a document for both"


def test_paired_difference_does_not_depend_on_document_order() -> None:
    ours = {"a": (1.0, 2.0), "b": (5.0, 3.0), "c": (2.0, 9.0)}
    theirs = {"c": (4.0, 9.0), "a": (2.0, 2.0), "b": (4.0, 3.0)}
    result = paired_difference(ours, theirs)
    residuals = np.array([-1.0, 1.0, -2.0]) - (-2 / 14) * np.array([2.0, 3.0, 9.0])
    assert result.difference == pytest.approx(-2 / 14)
    assert result.standard_error == pytest.approx(math.sqrt(1.5 * (residuals**2).sum()) / 14)


def test_ties_and_constant_differences() -> None:
    same = {"a": (1.0, 2.0), "b": (5.0, 3.0)}
    tie = paired_difference(same, same)
    assert (tie.difference, tie.standard_error, tie.p_value) == (0.0, 0.0, 1.0)
    assert verdict(tie, higher_is_better=False, p_adjusted=1.0) == "no clear difference"
    ahead = paired_difference({"a": (0.0, 1.0), "b": (1.0, 1.0)}, {"a": (1.0, 1.0), "b": (2.0, 1.0)})
    assert (ahead.difference, ahead.standard_error, ahead.p_value) == (-1.0, 0.0, 0.0)
    assert verdict(ahead, higher_is_better=False, p_adjusted=ahead.p_value) == "better"


def test_different_documents_are_refused() -> None:
    with pytest.raises(ValueError, match=r"same documents.*'b'"):
        paired_difference({"a": (1, 1)}, {"a": (1, 1), "b": (1, 1)})


@pytest.mark.parametrize(
    ("difference", "error", "higher", "p_adjusted", "expected"),
    [
        (-0.30, 0.1, False, 0.01, "better"),
        (-0.30, 0.1, True, 0.01, "worse"),
        (0.30, 0.1, True, 0.01, "better"),
        (0.30, 0.1, False, 0.01, "worse"),
        (-0.20, 0.1, False, 0.01, "no clear difference"),  # exactly two standard errors: not beyond
        (-0.30, 0.1, False, 0.06, "no clear difference"),  # beyond two, but not after Holm's correction
        (-0.30, math.nan, False, math.nan, "undecidable"),
    ],
)
def test_verdict(difference: float, error: float, higher: bool, p_adjusted: float, expected: str) -> None:
    paired = PairedDifference(difference, error, (0.0, 0.0), 0.01, 20)
    assert verdict(paired, higher_is_better=higher, p_adjusted=p_adjusted) == expected


def test_holm_against_the_definition() -> None:
    p_values = [0.04, 0.001, 0.03, 0.9, 0.012]
    expected = [3 * 0.03, 5 * 0.001, 3 * 0.03, 0.9, 4 * 0.012]  # 0.04 * 2 < 3 * 0.03: kept monotone
    assert holm(p_values) == pytest.approx(expected)
    assert holm([]) == []
    assert holm([0.7, 0.8]) == pytest.approx([1.0, 1.0])
    with_nan = holm([0.02, math.nan, 0.03])
    assert math.isnan(with_nan[1]) and (with_nan[0], with_nan[2]) == pytest.approx((0.04, 0.04))


def test_holm_keeps_the_family_wise_error() -> None:
    rng = np.random.default_rng(11)
    wrong = sum(min(holm(list(rng.uniform(size=4)))) <= 0.05 for _ in range(4000)) / 4000
    assert wrong == pytest.approx(0.05, abs=3.5 * math.sqrt(0.05 * 0.95 / 4000))


def test_coverage_with_strong_document_effects() -> None:
    """95 % intervals cover the truth in about 95 % of worlds; errors that ignore documents cover far fewer."""
    rng, truth, worlds, documents = np.random.default_rng(5), 3.0, 1500, 25
    covered = naive_covered = 0
    for _ in range(worlds):
        counts = rng.integers(20, 60, size=documents)
        effects = rng.normal(0, 0.5, size=documents)
        rows = [truth + effect + rng.normal(0, 1.0, size=count) for effect, count in zip(effects, counts, strict=True)]
        result = estimate({str(i): (float(x.sum()), len(x)) for i, x in enumerate(rows)})
        covered += result.interval[0] <= truth <= result.interval[1]
        pooled = np.concatenate(rows)
        naive_covered += abs(pooled.mean() - truth) <= 1.96 * stats.sem(pooled)
    assert 0.93 <= covered / worlds <= 0.97
    assert naive_covered / worlds < 0.75


def test_few_documents_are_named() -> None:
    assert few_documents_warning(8) is None
    assert "7 documents" in (few_documents_warning(7) or "")
    assert "1 document;" in (few_documents_warning(1) or "") and "no standard error" in (few_documents_warning(1) or "")
