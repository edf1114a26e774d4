"""A learning curve carried on: known curves are found again, intervals cover in simulation, odd input is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import optimize

from distill_core.report import write_report
from distill_core.report.extrapolation import extrapolate, held_out_points
from tests.report.fake_run import write_run

TOKENS = np.linspace(2_000, 40_000, 12)


def test_a_known_curve_is_found_again() -> None:
    curve = extrapolate(TOKENS, 2.0 + 90 * TOKENS**-0.5)
    assert curve is not None
    assert curve.exponent == pytest.approx(0.5, rel=0.05) and curve.floor == pytest.approx(2.0, abs=0.05)
    for one, factor in zip(curve.predictions, (2, 4), strict=True):
        assert one.tokens == factor * 40_000
        assert one.value == pytest.approx(2.0 + 90 * one.tokens**-0.5, abs=0.01)
        assert one.low <= one.value <= one.high and one.high - one.low < 0.1


def test_the_fit_equals_scipy_on_noisy_points() -> None:
    y = 2.0 + 90 * TOKENS**-0.5 + np.random.default_rng(3).normal(0, 0.02, len(TOKENS))
    curve = extrapolate(TOKENS, y)
    assert curve is not None
    x = TOKENS / TOKENS[-1]

    def residual(p: np.ndarray) -> np.ndarray:
        return p[0] + p[1] * x ** -p[2] - y

    best = optimize.least_squares(residual, [2.0, 0.5, 0.5], bounds=([0, 0, 0.05], [np.inf, np.inf, 2.0]))
    ours = curve.floor + curve.scale * TOKENS**-curve.exponent - y
    assert (ours**2).sum() <= 2 * best.cost * 1.01
    assert curve.predictions[0].value == pytest.approx(best.x[0] + best.x[1] * 2 ** -best.x[2], abs=0.01)


def test_intervals_cover_in_simulation() -> None:
    """95 % intervals for a new measurement at twice the budget, 120 curves: at least 85 % cover, few are refused."""
    rng, covered, widths = np.random.default_rng(7), 0, []
    for _ in range(120):
        curve = extrapolate(TOKENS, 2.0 + 90 * TOKENS**-0.5 + rng.normal(0, 0.02, len(TOKENS)))
        assert curve is not None
        if curve.misfit:
            continue
        one = curve.predictions[0]
        truth = 2.0 + 90 * one.tokens**-0.5 + rng.normal(0, 0.02)
        covered += one.low <= truth <= one.high
        widths.append(one.high - one.low)
    assert len(widths) >= 112 and covered >= 0.85 * len(widths) and float(np.median(widths)) < 0.25


def test_flat_and_rising_curves_promise_nothing() -> None:
    flat = extrapolate(TOKENS, np.full(len(TOKENS), 3.0))
    rising = extrapolate(TOKENS, 3.0 + TOKENS / 1e6)
    assert flat is not None and rising is not None
    assert [one.value for one in flat.predictions] == pytest.approx([3.0, 3.0])
    assert rising.scale == 0 and rising.predictions == () and "does not describe" in rising.misfit


def test_a_curve_of_another_form_is_not_carried_on() -> None:
    """An exponential that has levelled off: a power law would promise a gain that is not there."""
    curve = extrapolate(TOKENS, 2.3 + 7 * np.exp(-TOKENS / 5_000))
    assert curve is not None and curve.predictions == ()
    assert "a power law does not describe its curve: at the end it falls more slowly" in curve.misfit


def test_few_or_odd_points() -> None:
    assert extrapolate(TOKENS[:5], TOKENS[:5]) is None
    with pytest.raises(ValueError, match="as many"):
        extrapolate(TOKENS, TOKENS[:5])
    with pytest.raises(ValueError, match="increase"):
        extrapolate(TOKENS[::-1], TOKENS)
    lines = [{"tokens": 5, "eval_loss": 1.0}, {"tokens": 5}, {"tokens": 5, "eval_loss": None}, {"eval_loss": "inf"}]
    assert held_out_points(lines) == ([5.0], [1.0])


def test_on_the_page(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    path = run / "train" / "student" / "metrics.jsonl"
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    for line in lines:
        if "eval_loss" in line:
            line["eval_loss"] = 2 + 9 * line["step"] ** -0.5
    path.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    text = write_report(run).read_text(encoding="utf-8")
    assert "2 times the tokens" in text and "read the figures as an upper bound" in text
    assert "Not carried on to more tokens: hard-labels: a power law does not describe" in text
    for name in ("student", "hard-labels"):
        bare = [{**{k: v for k, v in line.items() if k != "eval_loss"}} for line in lines]
        (run / "train" / name / "metrics.jsonl").write_text("\n".join(map(json.dumps, bare)), encoding="utf-8")
    assert "times the tokens" not in write_report(run).read_text(encoding="utf-8")
