"""Ratios, closed gaps, seeds, resampling and corrections against closed forms, scipy and simulation."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy import stats

from distill_core.engine.resampling import jackknife_sums, paired_bootstrap
from distill_core.engine.results import compare, retention, transfer
from distill_core.engine.statistics import (
    benjamini_hochberg,
    estimate,
    gap_closed,
    holm,
    paired_difference,
    paired_seeds,
    ratio_of_figures,
)
from distill_core.interfaces import Measurement

Sums = dict[str, tuple[float, float]]


def world(rng: np.random.Generator, documents: int, mean: float) -> tuple[np.ndarray, np.ndarray]:
    """Counts of a document's rows, and its sum, with strong document effects."""
    counts = rng.integers(20, 60, size=documents).astype(float)
    return counts, counts * (mean + rng.normal(0, 0.4, size=documents))


def as_sums(counts: np.ndarray, sums: np.ndarray) -> Sums:
    return {f"d{i}": (float(s), float(n)) for i, (n, s) in enumerate(zip(counts, sums, strict=True))}


def jackknife_error(figures: list[float]) -> float:
    mean, size = sum(figures) / len(figures), len(figures)
    return math.sqrt((size - 1) / size * sum((value - mean) ** 2 for value in figures))


def without(sums: Sums, document: str) -> Sums:
    return {name: pair for name, pair in sums.items() if name != document}


def three_models(documents: int = 40) -> tuple[Sums, Sums, Sums]:
    rng = np.random.default_rng(2)
    counts, hard = world(rng, documents, 3.0)
    student, teacher, baseline = (as_sums(counts, hard + counts * (shift + rng.normal(0, 0.05, documents)))
                                  for shift in (0.2, 0.0, 1.0))  # fmt: skip
    return student, teacher, baseline


def test_ratio_and_gap_agree_with_the_jackknife() -> None:
    """Leaving each document out needs no linearisation; with 40 documents the two agree within a tenth."""
    student, teacher, baseline = three_models()
    value = {name: estimate(s).value for name, s in (("s", student), ("t", teacher), ("b", baseline))}
    ratio, gap = ratio_of_figures(student, teacher), gap_closed(student, teacher, baseline)
    assert ratio.value == pytest.approx(value["s"] / value["t"], rel=1e-12)
    assert gap.value == pytest.approx((value["s"] - value["b"]) / (value["t"] - value["b"]), rel=1e-12)
    assert 0.7 < gap.value < 0.9
    left = [ratio_of_figures(without(student, d), without(teacher, d)).value for d in student]
    assert ratio.standard_error == pytest.approx(jackknife_error(left), rel=0.1)
    left = [gap_closed(without(student, d), without(teacher, d), without(baseline, d)).value for d in student]
    assert gap.standard_error == pytest.approx(jackknife_error(left), rel=0.1)


def test_gap_at_its_ends_and_where_there_is_none() -> None:
    student, teacher, baseline = three_models()
    assert gap_closed(teacher, teacher, baseline).value == pytest.approx(1.0)
    assert gap_closed(baseline, teacher, baseline).value == pytest.approx(0.0, abs=1e-12)
    nothing = gap_closed(student, teacher, teacher)
    assert math.isnan(nothing.value) and "two standard errors" in nothing.reason
    one = gap_closed({"a": (1.0, 1.0)}, {"a": (2.0, 1.0)}, {"a": (0.0, 1.0)})
    assert math.isnan(one.value) and one.n_documents == 1
    zero = ratio_of_figures({"a": (1.0, 1.0), "b": (1.0, 1.0)}, {"a": (0.0, 1.0), "b": (0.0, 1.0)})
    assert math.isnan(zero.value) and zero.reason == "the reference is 0"
    with pytest.raises(ValueError, match="same documents"):
        ratio_of_figures({"a": (1.0, 1.0)}, {"b": (1.0, 1.0)})


def test_retention_intervals_cover() -> None:
    rng, worlds, covered = np.random.default_rng(8), 1000, 0
    for _ in range(worlds):
        counts, hard = world(rng, 30, 2.0)
        student = as_sums(counts, 1.5 * hard + counts * rng.normal(0, 0.1, 30))
        low, high = ratio_of_figures(student, as_sums(counts, hard)).interval
        covered += low <= 1.5 <= high
    # 1,000 worlds: the share has a standard error of 0.7 points.
    assert covered / worlds == pytest.approx(0.95, abs=0.025)


def test_bootstrap_error_and_interval_are_those_of_the_linearised_difference() -> None:
    student, _, baseline = three_models(60)
    exact = paired_difference(student, baseline)
    drawn = paired_bootstrap(student, baseline, draws=4000, seed=1)
    assert drawn.difference == pytest.approx(exact.difference, rel=1e-12)
    assert drawn.standard_error == pytest.approx(exact.standard_error, rel=0.06)
    assert drawn.interval == pytest.approx(exact.interval, abs=0.25 * exact.standard_error)
    again = paired_bootstrap(student, baseline, draws=4000, seed=1)
    assert again == drawn


def test_bootstrap_intervals_cover_at_the_stated_rate() -> None:
    """50 documents: a percentile interval is about 1 % shorter than the t interval; the truth is the population's."""
    rng, worlds, covered = np.random.default_rng(4), 600, 0
    for seed in range(worlds):
        counts, hard = world(rng, 50, 3.0)
        student = as_sums(counts, hard + counts * (-0.1 + rng.normal(0, 0.3, 50)))
        low, high = paired_bootstrap(student, as_sums(counts, hard), draws=400, seed=seed).interval
        covered += low <= -0.1 <= high
    # Standard error of the share: 0.9 points; 400 draws and the percentile cost about one more.
    assert 0.92 <= covered / worlds <= 0.98


def test_bootstrap_at_the_edges() -> None:
    one = paired_bootstrap({"a": (1.0, 2.0)}, {"a": (2.0, 2.0)})
    assert one.difference == -0.5 and math.isnan(one.standard_error) and one.n_documents == 1
    assert math.isnan(paired_bootstrap({}, {}).difference)
    with pytest.raises(ValueError, match="same documents"):
        paired_bootstrap({"a": (1.0, 1.0)}, {"b": (1.0, 1.0)})
    with pytest.raises(ValueError, match="draws must be at least 1"):
        paired_bootstrap({}, {}, draws=0)


def test_jackknife_sums_carry_value_and_error() -> None:
    """Of a mean, the jackknife is the textbook standard error; of a median it is defined by leaving out."""
    values = np.random.default_rng(0).normal(size=12)
    left = {f"d{i}": float(np.delete(values, i).mean()) for i in range(12)}
    found = estimate(jackknife_sums(float(values.mean()), left))
    assert found.value == pytest.approx(values.mean(), rel=1e-12)
    assert found.standard_error == pytest.approx(stats.sem(values), rel=1e-12)
    left = {f"d{i}": float(np.median(np.delete(values, i))) for i in range(12)}
    found = estimate(jackknife_sums(float(np.median(values)), left))
    assert found.standard_error == pytest.approx(jackknife_error(list(left.values())), rel=1e-12)
    assert jackknife_sums(1.0, {}) == {}


def test_benjamini_hochberg_is_that_of_scipy() -> None:
    rng = np.random.default_rng(1)
    for size in (1, 2, 7, 40):
        p_values = rng.uniform(size=size) ** 2
        assert benjamini_hochberg(list(p_values)) == pytest.approx(stats.false_discovery_control(p_values, method="bh"))
    assert benjamini_hochberg([]) == []
    with_nan = benjamini_hochberg([0.02, math.nan, 0.03])
    assert math.isnan(with_nan[1]) and (with_nan[0], with_nan[2]) == pytest.approx((0.03, 0.03))


def test_benjamini_hochberg_keeps_the_false_discovery_rate_and_finds_more_than_holm() -> None:
    rng, share, more = np.random.default_rng(7), 0.0, 0
    for _ in range(1500):
        shift = np.where(np.arange(20) < 5, 3.0, 0.0)  # five true effects of twenty
        p_values = list(2 * stats.norm.sf(np.abs(rng.normal(shift))))
        found = [i for i, p in enumerate(benjamini_hochberg(p_values)) if p <= 0.1]
        share += sum(i >= 5 for i in found) / max(len(found), 1) / 1500
        more += len(found) - sum(p <= 0.1 for p in holm(p_values))
    # Expected: 0.1 * 15/20 = 0.075; standard error of the mean below 0.004.
    assert share == pytest.approx(0.075, abs=0.015) and more > 500


def test_seeds_are_paired_like_a_t_test() -> None:
    ours, theirs = [2.0, 2.3, 1.9, 2.2, 2.1], [2.2, 2.4, 2.2, 2.3, 2.2]
    found = paired_seeds(dict(enumerate(ours)), dict(enumerate(theirs)))
    assert found.p_value == pytest.approx(stats.ttest_rel(ours, theirs).pvalue, rel=1e-9)
    assert found.n_documents == 5
    with pytest.raises(ValueError, match="same seeds"):
        paired_seeds({0: 1.0}, {1: 1.0})


def measurement(metric: str, sums: Sums, *, higher: bool = True) -> Measurement:
    return Measurement(metric, estimate(sums).value, "", len(sums), higher, sums, {})


def test_models_that_count_in_different_documents_are_compared_on_those_they_share() -> None:
    """A chain without an equation has no step to judge: the other model's document is left out, and no error raised."""
    ours = {"a": (1.0, 2.0), "b": (2.0, 2.0), "c": (0.0, 0.0), "d": (1.0, 3.0)}
    theirs = {"a": (2.0, 2.0), "b": (2.0, 3.0), "c": (1.0, 1.0)}
    given = {"student": [measurement("steps", ours)], "teacher": [measurement("steps", theirs)]}
    (entry,) = compare(given, student="student", teacher="teacher")
    assert entry["n_documents"] == 2 and entry["difference"] == pytest.approx(3 / 4 - 4 / 5)
    (kept,) = retention(given, teacher="teacher")
    assert kept["value"] == pytest.approx((3 / 4) / (4 / 5)) and kept["n_documents"] == 2 and kept["gap_closed"] == {}
    nothing = {"student": [measurement("steps", {"x": (1.0, 1.0)})], "teacher": [measurement("steps", theirs)]}
    (entry,) = compare(nothing, student="student", teacher="teacher")
    assert entry["verdict"] == "undecidable"
    (kept,) = retention(nothing, teacher="teacher")
    assert math.isnan(kept["value"])


def test_retention_and_gaps_of_several_students() -> None:
    student, teacher, baseline = three_models()
    given = {n: [measurement("loss", s, higher=False)] for n, s in
             (("teacher", teacher), ("student", student), ("base", baseline))}  # fmt: skip
    found = {entry["model"]: entry for entry in retention(given, teacher="teacher")}
    assert set(found) == {"student", "base"}
    assert found["student"]["gap_closed"]["base"]["value"] == gap_closed(student, teacher, baseline).value
    assert retention(given, teacher=None) == []


def test_transfer_needs_two_architectures() -> None:
    def model(layers: int, loss: float, role: str = "student") -> dict[str, Any]:
        metrics = {"loss": {"value": loss, "higher_is_better": False}}
        return {"role": role, "architecture": "A", "layers": layers, "hidden_size": 8, "metrics": metrics}

    assert transfer({"a": model(2, 1.0), "b": model(2, 2.0)}) == []
    assert transfer({"a": model(2, 1.0), "t": model(4, 2.0, "teacher")}) == []
    (found,) = transfer({"a": model(2, 1.0), "b": model(4, 2.0), "c": model(4, 4.0)})
    assert found["values"] == {"a": 1.0, "b": 2.0, "c": 4.0} and found["worst"] == 4.0
    assert found["mean"] == pytest.approx(7 / 3) and found["spread"] == pytest.approx(np.std([1, 2, 4], ddof=1))
    assert transfer({"a": model(2, 1.0), "b": model(4, math.nan)}) == []
