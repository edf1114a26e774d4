"""What would more budget buy: a held-out learning curve carried on, with an interval.

Form ``L(t) = a + b t^(-c)`` with t tokens trained on, a, b >= 0 and c > 0 (a power law with a floor: Hestness et al.
2017, arXiv 1712.00409). c runs over a grid, a and b by least squares; the interval comes from a bootstrap of the
residuals, scaled for the three parameters, with the noise of one more measurement in it. Points of one run are not
independent and its learning rate falls: the interval is of this curve, and the page says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

FEWEST_POINTS = 6
"""Three parameters need at least twice as many points."""

RESAMPLES = 400
NEGLIGIBLE, END_RUN = 0.005, 5
EXPONENTS = np.geomspace(0.05, 2.0, 60)
FACTORS = (2.0, 4.0)
"""How many times the budget is looked at."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Prediction:
    """The loss at a budget, with its interval."""

    tokens: float
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Curve:
    """A fitted curve: parameters, the last point seen, predictions at multiples of its budget.

    ``misfit`` says why there are none: the form does not describe the points.
    """

    floor: float
    scale: float
    exponent: float
    last_tokens: float
    last_value: float
    predictions: tuple[Prediction, ...]
    misfit: str = ""


def held_out_points(lines: Sequence[Mapping[str, Any]]) -> tuple[list[float], list[float]]:
    """Tokens trained on and held-out loss, of the lines of ``metrics.jsonl`` that have one."""
    tokens, xs, ys = 0.0, [], []
    for line in lines:
        tokens += float(line.get("tokens", 0) or 0)
        value = line.get("eval_loss")
        if isinstance(value, int | float) and tokens > 0 and np.isfinite(value):
            xs.append(tokens)
            ys.append(float(value))
    return xs, ys


def extrapolate(tokens: Sequence[float], losses: Sequence[float], *, confidence: float = 0.95) -> Curve | None:
    """Fit a curve and carry it on; None for fewer than six points.

    Args:
        tokens: trained on so far, increasing, above 0.
        losses: held-out loss there.
        confidence: of the two-sided intervals.

    Raises:
        ValueError: another number of losses than tokens, or tokens that do not increase.

    >>> curve = extrapolate([1, 2, 4, 8, 16, 32], [1 + 2 / t**0.5 for t in (1, 2, 4, 8, 16, 32)])
    >>> round(curve.predictions[0].value, 2)  # 1 + 2 / 8
    1.25
    """
    t, y = np.asarray(tokens, dtype=np.float64), np.asarray(losses, dtype=np.float64)
    if t.shape != y.shape:
        raise ValueError(f"tokens and losses must be as many, got {len(t)} and {len(y)}")
    if len(t) < FEWEST_POINTS:
        return None
    if not (np.diff(t) > 0).all() or t[0] <= 0:
        raise ValueError(f"tokens must be above 0 and increase, got {t[:5].tolist()} ...")
    parameters, fitted, predictions = _predict(t, y, np.asarray(FACTORS), confidence)
    floor, scale, exponent = parameters.tolist()
    misfit = _misfit(y, fitted)
    known = (floor, scale * t[-1] ** exponent, exponent, float(t[-1]), float(y[-1]))
    return Curve(*known, () if misfit else predictions, misfit)


def _misfit(y: Floats, fitted: Floats) -> str:
    """Why the form does not describe the points; empty if it does.

    What matters is the end, from which the curve is carried on: if the last five residuals rise, or fall, one after
    the other, the fit has another slope there than the points. Independent residuals do so in 2 of 120 cases. Residuals
    below half a per cent of the curve's range are no misfit, whatever their order.
    """
    residuals = y - fitted
    spread = float(np.sqrt((residuals**2).mean()))
    steps = np.diff(residuals[-END_RUN:])
    if spread <= NEGLIGIBLE * float(y.max() - y.min()) or not ((steps > 0).all() or (steps < 0).all()):
        return ""
    way = "more slowly" if steps[0] > 0 else "faster"
    return f"a power law does not describe its curve: at the end it falls {way} than the fit, point after point"


def _predict(t: Floats, y: Floats, at: Floats, confidence: float) -> tuple[Floats, Floats, tuple[Prediction, ...]]:
    """(a, b, c) over tokens in units of the last ones, fitted values, and predictions at multiples of them."""
    unit = t[-1]
    x = t / unit
    parameters, fitted = _fit(x, y[None])
    residuals = (y - fitted[0]) * np.sqrt(len(y) / (len(y) - 3))
    rng = np.random.default_rng(0)
    drawn = rng.choice(residuals, size=(RESAMPLES, len(y)))
    resampled, _ = _fit(x, fitted[0] + drawn)
    guesses = _at(resampled, at) + rng.choice(residuals, size=(RESAMPLES, len(at)))
    tail = (1 - confidence) / 2
    low, high = np.quantile(guesses, [tail, 1 - tail], axis=0)
    values = _at(parameters, at)[0]
    predictions = tuple(
        Prediction(float(factor * unit), float(v), float(min(a, v)), float(max(b, v)))
        for factor, v, a, b in zip(at, values, low, high, strict=True)
    )
    return parameters[0], fitted[0], predictions


def _fit(x: Floats, y_RN: Floats) -> tuple[Floats, Floats]:
    """(a, b, c) of each of R curves over the same N points, and the fitted values [R, N]."""
    best = np.full(len(y_RN), np.inf)
    parameters, fitted = np.zeros((len(y_RN), 3)), np.zeros_like(y_RN)
    mean_R = y_RN.mean(axis=1)
    for exponent in EXPONENTS:
        basis = x**-exponent
        centred = basis - basis.mean()
        scale_R = np.maximum((y_RN @ centred) / (centred @ centred), 0.0)
        floor_R = mean_R - scale_R * basis.mean()
        below = floor_R < 0  # then the floor is 0 and the scale alone is fitted
        scale_R = np.where(below, np.maximum((y_RN @ basis) / (basis @ basis), 0.0), scale_R)
        floor_R = np.where(below, 0.0, floor_R)
        values = floor_R[:, None] + scale_R[:, None] * basis
        error = ((y_RN - values) ** 2).sum(axis=1)
        better = error < best
        best = np.where(better, error, best)
        parameters[better] = np.stack([floor_R, scale_R, np.full_like(scale_R, exponent)], axis=1)[better]
        fitted[better] = values[better]
    return parameters, fitted


def _at(parameters_R3: Floats, x: Floats) -> Floats:
    floor, scale, exponent = parameters_R3.T
    values: Floats = floor[:, None] + scale[:, None] * x[None] ** -exponent[:, None]
    return values
