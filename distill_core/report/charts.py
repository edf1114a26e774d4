"""The figures of the page: which series go into which chart."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from distill_core.report.blocks import Figure
from distill_core.report.svg import Interval, Series, interval_chart, line_chart
from distill_core.report.text import direction, figure, number

BASELINE_TONES = 5
"""Colours for baselines; further ones share the last."""


def tones(results: Mapping[str, Any] | None, trainings: Sequence[str]) -> dict[str, str]:
    """A colour class per model, the same everywhere on the page: teacher, student, then the baselines in order."""
    models = (results or {}).get("models", {})
    found = {name: "tone-teacher" for name, model in models.items() if model["role"] == "teacher"}
    others = [*(name for name in models if name not in found), *(name for name in trainings if name not in models)]
    for index, name in enumerate(others):
        found[name] = f"tone-{min(index, BASELINE_TONES)}"
    return found


def metric_figures(results: Mapping[str, Any], tone: Mapping[str, str], names: Sequence[str]) -> list[Figure]:
    """One interval chart per metric named."""
    figures = []
    for name in names:
        described = described_metric(results, name)
        label, unit = described["label"], described["unit"]
        rows = []
        for model, entry in results["models"].items():
            metric = entry["metrics"].get(name)
            if metric is None:
                continue
            shown, scale = figure(metric), 100.0 if unit == "fraction" else 1.0
            low, high = (scale * number(end) for end in metric["interval"])
            text = f"{shown['value']} {shown['error']}".strip()
            rows.append(Interval(model, tone[model], scale * number(metric["value"]), low, high, text))
        note = ", ".join(part for part in ("%" if unit == "fraction" else unit, direction(described)) if part)
        svg = interval_chart(rows, title=f"{label} by model")
        if svg:
            figures.append(Figure(label, note, svg))
    return figures


def primary_metrics(results: Mapping[str, Any]) -> list[str]:
    """Names of the metrics the verdict speaks of."""
    return list(
        dict.fromkeys(
            name
            for model in results["models"].values()
            for name, metric in model["metrics"].items()
            if metric["primary"]
        )
    )


def described_metric(results: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """One entry of a metric: its label, unit and direction."""
    return next(m["metrics"][name] for m in results["models"].values() if name in m["metrics"])


def position_figures(results: Mapping[str, Any], tone: Mapping[str, str], names: Sequence[str]) -> list[Figure]:
    """A line per model for every metric named that comes with ``detail.by_position``."""
    found: dict[str, list[Series]] = {}
    captions: dict[str, tuple[str, str]] = {}
    for model, entry in results["models"].items():
        for name, metric in entry["metrics"].items():
            bins = metric["detail"].get("by_position") if name in names else None
            if not bins:
                continue
            points = [(math.sqrt((b["start"] + 1) * b["stop"]), number(b["value"])) for b in bins]
            errors = [number(b["standard_error"]) for b in bins]
            found.setdefault(name, []).append(Series(model, tone[model], points, errors, "marked"))
            captions[name] = (f"{metric['label']} by position", f"{metric['unit']}, band: \u00b1 1 standard error")
    return [
        Figure(
            *captions[name],
            line_chart(series, title=captions[name][0], x_label="position in the sequence (tokens)", x_log=True),
        )
        for name, series in found.items()
    ]


def reliability_figures(results: Mapping[str, Any], tone: Mapping[str, str], names: Sequence[str]) -> list[Figure]:
    """Accuracy over confidence, where a metric named comes with ``detail.reliability``."""
    series = []
    for model, entry in results["models"].items():
        found = [
            m["detail"]["reliability"]
            for n, m in entry["metrics"].items()
            if n in names and m["detail"].get("reliability")
        ]
        if found:
            points = [(b["confidence"], b["accuracy"]) for b in found[0]]
            series.append(Series(model, tone[model], points, (), "marked"))
    if not series:
        return []
    svg = line_chart(
        series, title="Reliability", x_label="confidence in the most likely answer", diagonal=True, y_per_cent=True
    )
    note = "how often the most likely answer was right; on the diagonal, confidence is deserved"
    return [Figure("Calibration at a glance", note, svg)]


def learning_figures(trainings: Mapping[str, Sequence[Mapping[str, Any]]], tone: Mapping[str, str]) -> list[Figure]:
    """Loss over steps for each training, and held-out objectives that several trainings share."""
    figures = []
    shared: dict[str, list[Series]] = {}
    for name, lines in trainings.items():
        colour = tone[name]
        train = [(float(line["step"]), number(line.get("loss"))) for line in lines]
        held_out = [(float(line["step"]), number(line["eval_loss"])) for line in lines if "eval_loss" in line]
        series = [
            Series("training", colour, train, (), "faint"),
            Series("training", colour, smoothed(train)),
            Series("held-out", "tone-held-out", held_out, (), "marked"),
        ]
        svg = line_chart(series, title=f"Loss of {name}", x_label="optimizer step")
        objectives = ", ".join(dict.fromkeys(key for line in lines for key in line.get("objectives", {})))
        if svg:
            figures.append(Figure(f"Learning curve: {name}", f"loss: {objectives or 'not named'}", svg))
        for objective in dict.fromkeys(key for line in lines for key in line.get("eval_objectives", {})):
            points = [
                (float(line["step"]), number(line["eval_objectives"][objective]))
                for line in lines
                if objective in line.get("eval_objectives", {})
            ]
            shared.setdefault(objective, []).append(Series(name, colour, points, (), "marked"))
    for objective, several in shared.items():
        if len(several) > 1:
            svg = line_chart(several, title=f"Held-out {objective}", x_label="optimizer step")
            figures.append(Figure(f"Held-out {objective}", "the same objective in each training", svg))
    return figures


def smoothed(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Mean over a trailing window of a twentieth of the steps, at least 3.

    >>> smoothed([(1.0, 3.0), (2.0, 1.0), (3.0, 2.0), (4.0, 0.0)])
    [(1.0, 3.0), (2.0, 2.0), (3.0, 2.0), (4.0, 1.0)]
    """
    finite = [(x, y) for x, y in points if math.isfinite(y)]
    window = max(3, len(finite) // 20)
    result = []
    for index, (x, _) in enumerate(finite):
        part = finite[max(0, index + 1 - window) : index + 1]
        result.append((x, math.fsum(y for _, y in part) / len(part)))
    return result
