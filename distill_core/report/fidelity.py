"""Is the student a copy of its teacher, or only useful? Closeness and usefulness are told apart.

Students may get better without getting closer to their teacher, and closer without getting better (Stanton et al. 2021,
arXiv 2106.05945). A metric that the teacher itself has no figure of measures closeness to it; a primary metric that the
teacher has too measures usefulness. No metric is known by name.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from distill_core.report.blocks import Figure
from distill_core.report.svg import Series, line_chart
from distill_core.report.text import difference, direction, figure, in_sentence, listing, number, share


@dataclass(frozen=True)
class Fidelity:
    """What the section says: sentences, and one chart of usefulness over closeness."""

    sentences: list[str] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)


SAID = {
    (True, True): "closer to the teacher than {against} and better: what it gained may well come from the teacher",
    (False, True): "better than {against} without being clearly closer to the teacher: the gain is no sign of copying",
    (True, False): "closer to the teacher than {against}, yet not clearly better: this much fidelity does not pay here",
    (False, False): "neither clearly closer to the teacher than {against} nor clearly better",
}
"""By (closer, better)."""


NAMED = 4
"""Metrics named in the first sentence; the table below has them all."""


def fidelity(results: Mapping[str, Any] | None, tone: Mapping[str, str]) -> Fidelity | None:
    """The section; None without a teacher, a student, or metrics of both sorts.

    Args:
        results: ``results.json``, or None.
        tone: colour class per model.
    """
    models = (results or {}).get("models", {})
    teacher = next((name for name, model in models.items() if model["role"] == "teacher"), None)
    student = next((name for name in models if name != teacher), None)
    if results is None or teacher is None or student is None:
        return None
    ours, theirs = models[student]["metrics"], models[teacher]["metrics"]
    close = [
        name
        for name, metric in ours.items()
        if name not in theirs and not metric["derived_from"] and metric.get("aspect", "") in ("", "fidelity")
    ]
    useful = [name for name, metric in ours.items() if name in theirs and metric["primary"]]
    if not close or not useful:
        return None
    leading = next((name for name in close if ours[name]["primary"]), close[0])
    named = sorted(close, key=lambda name: name != leading)[:NAMED]
    sentences = [_level(student, [ours[name] for name in named])]
    for baseline in [name for name in models if name not in (teacher, student)]:
        verdicts = {c["metric"]: c for c in results["comparisons"] if c["baseline"] == baseline}
        if leading in verdicts and useful[0] in verdicts:
            sentences.append(_diagnosis(student, baseline, [verdicts[leading], verdicts[useful[0]]], ours))
            sentences += _gap(useful[0], models, student, baseline, teacher)
    return Fidelity(sentences, _chart(models, tone, leading, useful[0]))


def _level(student: str, metrics: list[Mapping[str, Any]]) -> str:
    figures = [f"{in_sentence(metric['label'])} {_with_unit(metric)}" for metric in metrics]
    return f"How close {_the(student)} is to the teacher: {listing(figures)}."


def _with_unit(metric: Mapping[str, Any]) -> str:
    unit = "" if metric["unit"] in ("", "fraction") else f" {metric['unit']}"
    return f"{figure(metric)['value']}{unit}"


def _diagnosis(student: str, baseline: str, pair: list[Mapping[str, Any]], ours: Mapping[str, Any]) -> str:
    closer, better = (one["verdict"] == "better" for one in pair)
    shown = [
        f"{in_sentence(ours[c['metric']]['label'])} {difference(c, ours[c['metric']]['unit'])['value']}" for c in pair
    ]
    said = SAID[closer, better].format(against=baseline)
    subject = _the(student)
    return f"{subject[:1].upper()}{subject[1:]} is {said} ({'; '.join(shown)})."


def _gap(metric: str, models: Mapping[str, Any], student: str, baseline: str, teacher: str) -> list[str]:
    """How much of the way from the baseline to the teacher the student has gone; nothing if that is no way."""
    ours, base, best = (number(models[name]["metrics"][metric]["value"]) for name in (student, baseline, teacher))
    described = models[student]["metrics"][metric]
    way = best - base if described["higher_is_better"] else base - best
    gone = ours - base if described["higher_is_better"] else base - ours
    if not (math.isfinite(gone) and math.isfinite(way) and way > 0):
        return []
    label = in_sentence(described["label"])
    if gone < 0:
        return [
            f"In {label} it falls behind {baseline}: the teacher may be too strong for this student and this much text "
            "(the capacity gap), or the training too short; `distill plan` says what a scaling law expects."
        ]
    return [f"In {label} it has gone {share(gone / way)} of the way from {baseline} to the teacher."]


def _chart(models: Mapping[str, Any], tone: Mapping[str, str], x: str, y: str) -> list[Figure]:
    found = [(name, model["metrics"]) for name, model in models.items() if {x, y} <= model["metrics"].keys()]
    series = [
        Series(name, tone[name], [(number(metrics[x]["value"]), number(metrics[y]["value"]))], (), "dots")
        for name, metrics in found
    ]
    described = found[0][1]
    labels = [described[name]["label"] for name in (x, y)]
    svg = line_chart(series, title=f"{labels[1]} over {labels[0]}", x_label=_axis(described[x]))
    if not svg:
        return []
    note = f"up: {_axis(described[y])}"
    return [Figure(f"{labels[1]} over {in_sentence(labels[0])}", note, svg)]


def _axis(metric: Mapping[str, Any]) -> str:
    unit = "" if metric["unit"] in ("", "fraction") else f" ({metric['unit']})"
    return ", ".join(part for part in (f"{in_sentence(metric['label'])}{unit}", direction(metric)) if part)


def _the(name: str) -> str:
    return f"the {name}" if name == "student" else name
