"""Calibration against sklearn, scipy and predictors whose calibration is known."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss, log_loss

from distill_core.engine.statistics import estimate
from distill_core.errors import SignalError
from distill_core.interfaces import EvaluationContext
from distill_core.types import TokenBatch
from distill_evaluation.calibration import Calibration, CalibrationRows, equal_width_bins
from distill_evaluation.options import CalibrationOptions, TemperatureScalingOptions
from distill_evaluation.temperature_scaling import TemperatureScaling, _Fit
from tests.evaluation.rows import bare_context, measured, rows_of

CLASSES = 6


def world(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits, and labels drawn from their softmax: a perfectly calibrated predictor."""
    rng = np.random.default_rng(seed)
    logits = 1.5 * rng.normal(size=(n, CLASSES))
    p = softmax(logits, axis=1)
    return logits, (p.cumsum(1) > rng.uniform(size=(n, 1))).argmax(1)


def calibration(logits: np.ndarray, labels: np.ndarray, bins: int = 10) -> dict[str, Any]:
    rows = rows_of(torch.from_numpy(labels), torch.from_numpy(logits).float(), per_document=50)
    return measured(Calibration(CalibrationOptions(bins=bins)), bare_context(), rows)


def test_a_perfect_predictor_has_the_brier_and_ece_that_chance_gives() -> None:
    """Brier: 1 - E sum q^2. ECE of equal mass: sum_b n_b / N sqrt(2 / pi) sd_b / sqrt(n_b), the mean of |normal|."""
    n, bins = 40_000, 10
    logits, labels = world(n)
    found = calibration(logits, labels, bins)
    p = softmax(logits, axis=1)
    expected = 1 - (p**2).sum(1).mean()
    error = estimate(found["brier"].document_sums).standard_error
    assert abs(found["brier"].value - expected) < 3.5 * error and error < 0.01
    chance = math.sqrt(2 / math.pi) * math.sqrt((p.max(1) * (1 - p.max(1))).mean() * bins / n)
    assert found["ece"].value < 2 * chance
    # Its mean over worlds is the chance level: 40 worlds of 4,000, whose mean has a standard error of about 4 %.
    worlds = [calibration(*world(4000, seed), bins)["ece"].value for seed in range(40)]
    assert np.mean(worlds) == pytest.approx(chance * math.sqrt(10), rel=0.15)


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_a_miscalibrated_predictor_has_the_ece_and_brier_it_must(factor: float) -> None:
    """Logits times a factor: too sure or too unsure everywhere, so ECE is the mean gap of confidence and chance."""
    logits, labels = world(40_000)
    p, q = softmax(logits, axis=1), softmax(factor * logits, axis=1)
    gap = p.max(1) - q.max(1)  # deserved minus claimed: of one sign
    assert (gap < 0).mean() > 0.99 or (gap > 0).mean() > 0.99
    brier = ((q**2).sum(1) - 2 * (p * q).sum(1) + 1).mean()
    found = calibration(factor * logits, labels)
    for metric, expected in (("ece", abs(gap.mean())), ("ece_width", abs(gap.mean())), ("brier", brier)):
        error = estimate(found[metric].document_sums).standard_error
        assert abs(found[metric].value - expected) < 3.5 * error, metric
        assert error < 0.005


def test_brier_and_curve_are_those_of_sklearn() -> None:
    logits, labels = world(700, 3)
    p = softmax(logits, axis=1)
    found = calibration(logits, labels, 8)
    assert found["brier"].value == pytest.approx(brier_score_loss(labels, p, scale_by_half=False), rel=1e-5)
    confidence, correct = p.max(1), p.argmax(1) == labels
    accuracy, claimed = calibration_curve(correct, confidence, n_bins=8, strategy="uniform")
    curve = found["ece_width"].detail["reliability"]
    assert [bin_["accuracy"] for bin_ in curve] == pytest.approx(accuracy)
    assert [bin_["confidence"] for bin_ in curve] == pytest.approx(claimed, rel=1e-5)
    weight = np.array([bin_["n"] for bin_ in curve]) / 700
    assert found["ece_width"].value == pytest.approx((weight * abs(accuracy - claimed)).sum(), rel=1e-5)
    sink = CalibrationRows(8)
    sink.update(rows_of(torch.from_numpy(labels), torch.from_numpy(logits).float()))
    assert sink.nats_measurement("nat/row").value == pytest.approx(log_loss(labels, p), rel=1e-5)


def test_one_class_one_row_none_and_ties() -> None:
    sure = calibration(np.array([[50.0, 0, 0, 0, 0, 0]]), np.array([0]))
    assert [sure[m].value for m in ("ece", "ece_width", "brier")] == pytest.approx([0.0, 0.0, 0.0], abs=1e-12)
    wrong = calibration(np.array([[50.0, 0, 0, 0, 0, 0]]), np.array([1]))
    assert [wrong[m].value for m in ("ece", "ece_width", "brier")] == pytest.approx([1.0, 1.0, 2.0])
    assert wrong["ece"].n == 1 and math.isnan(estimate(wrong["ece"].document_sums).standard_error)
    nothing = CalibrationRows(4).measurements()
    assert all(math.isnan(m.value) and m.n == 0 for m in nothing)
    tied = calibration(np.zeros((60, CLASSES)), np.repeat(np.arange(CLASSES), 10))  # confidence 1/6, deserved
    assert tied["ece"].value == pytest.approx(0.0, abs=1e-7) and len(tied["ece"].detail["reliability"]) == 1
    assert equal_width_bins(torch.tensor([1.0, 1.0 - 1e-12, 0.0]), 10).tolist() == [9, 9, 0]


def fitted(logits: np.ndarray, labels: np.ndarray) -> _Fit:
    fit = _Fit()
    fit.update(rows_of(torch.from_numpy(labels), torch.from_numpy(logits).float(), per_document=40))
    return fit


@pytest.mark.parametrize("temperature", [0.4, 1.0, 2.2, 3.5])
def test_the_temperature_is_that_of_a_scalar_minimiser(temperature: float) -> None:
    logits, labels = world(4000, 5)
    given = temperature * logits

    def nats(t: float) -> float:
        return float(-log_softmax(given / t, axis=1)[np.arange(len(labels)), labels].mean())

    best = minimize_scalar(nats, bounds=(0.2, 5), method="bounded", options={"xatol": 1e-8})
    fit = fitted(given, labels)
    one = fit.measurement(fit.root())
    assert one.value == pytest.approx(best.x, rel=2e-4)
    found = estimate(one.document_sums)
    assert found.value == pytest.approx(one.value) and abs(one.value - temperature) < 3.5 * found.standard_error
    left = []
    for d in range(100):
        kept = np.arange(4000) // 40 != d
        smaller = fitted(given[kept], labels[kept])
        left.append(1 / smaller.root())
    jackknife = math.sqrt(99 / 100 * ((np.array(left) - np.mean(left)) ** 2).sum())
    assert found.standard_error == pytest.approx(jackknife, rel=0.1)


def test_a_temperature_beyond_the_grid_is_said() -> None:
    logits, labels = world(500)
    fit = fitted(100 * logits, labels)
    one = fit.measurement(fit.root())
    assert one.value == 4.0 and one.detail["at_the_end_of_the_grid"]


class Table(torch.nn.Module):
    """A classifier whose logits are looked up by the row's first token."""

    def __init__(self, logits: np.ndarray) -> None:
        super().__init__()
        self.logits = torch.nn.Parameter(torch.from_numpy(logits).float())
        self.config = SimpleNamespace(num_labels=logits.shape[1])

    def forward(self, input_ids: torch.Tensor, **_: Any) -> Any:
        return SimpleNamespace(logits=self.logits[input_ids[:, 0]])


def table_context(logits: np.ndarray, labels: np.ndarray, documents: int) -> EvaluationContext:
    ids = torch.arange(len(labels))[:, None]
    names = tuple(f"d{i % documents}" for i in range(len(labels)))
    keys = tuple(bytes(16) for _ in labels)
    batch = TokenBatch(ids, torch.ones_like(ids), torch.from_numpy(labels)[:, None], keys, names, next_token=False)
    step = 170
    batches = [batch.select_sequences(start, start + step) for start in range(0, len(labels), step)]
    return bare_context(model=Table(logits), labels=tuple("abcdef"), batches=lambda: batches)


def test_scaling_mends_what_a_temperature_can_and_reports_other_documents() -> None:
    logits, labels = world(6000, 9)
    given = table_context(2.0 * logits, labels, 60)
    found = {m.metric: m for m in TemperatureScaling().evaluate(given)}
    fitted_on, reported = set(found["fitted_temperature"].document_sums), set(found["scaled_ece"].document_sums)
    assert not fitted_on & reported and len(fitted_on | reported) == 60 and min(len(fitted_on), len(reported)) > 15
    assert found["fitted_temperature"].value == pytest.approx(2.0, abs=0.15)
    rows = np.isin([f"d{i % 60}" for i in range(6000)], sorted(reported))
    q = softmax(2.0 * logits[rows], axis=1)
    assert found["scaled_brier"].detail["before"] == pytest.approx(
        brier_score_loss(labels[rows], q, scale_by_half=False), rel=1e-5
    )
    mended = softmax(2.0 * logits[rows] / found["fitted_temperature"].value, axis=1)
    assert found["scaled_cross_entropy"].value == pytest.approx(log_loss(labels[rows], mended), rel=1e-4)
    assert found["scaled_ece"].value < 0.05 < 0.1 < found["scaled_ece"].detail["before"]
    assert found["scaled_ece"].n == rows.sum()


def test_too_few_documents_to_split() -> None:
    logits, labels = world(30)
    given = table_context(logits, labels, 1)
    for share, message in ((0.999999, "no document to report on"), (0.000001, "no document to fit on")):
        with pytest.raises(SignalError, match=message):
            TemperatureScaling(TemperatureScalingOptions(fit_share=share)).evaluate(replace(given))
