"""What stands in ``results.json``: figures with their uncertainty, paired comparisons, plain JSON values."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from distill_core.engine import flags, statistics
from distill_core.files import atomic_write_bytes
from distill_core.interfaces import Flag, Measurement


def figures(m: Measurement, confidence: float) -> dict[str, Any]:
    """A measurement as it stands in the results."""
    found = statistics.estimate(m.document_sums, confidence=confidence)
    value, error, interval = found.value, found.standard_error, found.interval
    if m.transform == "exp":
        value, interval = _exp(value), (_exp(interval[0]), _exp(interval[1]))
        error = value * error  # delta method
    return {
        "label": m.label or m.metric.replace("_", " "),
        "aspect": m.aspect,
        "primary": m.primary,
        "value": value,
        "standard_error": error,
        "interval": list(interval),
        "n": m.n,
        "n_documents": found.n_documents,
        "unit": m.unit,
        "higher_is_better": m.higher_is_better,
        "derived_from": m.derived_from,
        "detail": dict(m.detail),
    }


def _exp(value: float) -> float:
    return math.exp(value) if value < 700 else math.inf


def compare(
    measured: Mapping[str, Sequence[Measurement]],
    *,
    student: str | None,
    teacher: str | None = None,
    confidence: float = 0.95,
) -> list[dict[str, Any]]:
    """The student against every other model, metric by metric, paired by document.

    Holm's correction runs over the baselines, for each metric; the teacher is no rival and stands outside the family.
    Metrics that restate another (``derived_from``) are not compared twice, those without a direction not at all.
    Where a metric counts nothing in some documents of one model (a chain without an equation), the documents that both
    have are compared.
    """
    by_metric: dict[str, dict[str, Measurement]] = {}
    for name, measurements in measured.items():
        for m in measurements:
            if m.derived_from is None and m.higher_is_better is not None:
                by_metric.setdefault(m.metric, {})[name] = m
    comparisons = []
    for metric, by_model in by_metric.items():
        if student is None or student not in by_model:
            continue
        ours = by_model[student]
        others = [name for name in by_model if name != student]
        pairs = [
            statistics.paired_difference(
                *common_documents(ours.document_sums, by_model[name].document_sums), confidence=confidence
            )
            for name in others
        ]
        family = [name for name in others if name != teacher]
        p_values = {name: pair.p_value for name, pair in zip(others, pairs, strict=True)}
        adjusted = p_values | dict(zip(family, statistics.holm([p_values[name] for name in family]), strict=True))
        for name, pair in zip(others, pairs, strict=True):
            p_adjusted = adjusted[name]
            verdict = statistics.verdict(
                pair, higher_is_better=bool(ours.higher_is_better), p_adjusted=p_adjusted, confidence=confidence
            )
            baseline = by_model[name].value
            comparisons.append(
                {
                    "metric": metric,
                    "model": student,
                    "baseline": name,
                    **asdict(pair),
                    "interval": list(pair.interval),
                    "p_adjusted": p_adjusted,
                    "relative": pair.difference / abs(baseline) if baseline else math.nan,
                    "verdict": verdict,
                }
            )
    return comparisons


def common_documents(*sums: statistics.DocumentSums) -> list[statistics.DocumentSums]:
    """The sums on those documents where every one of them has a denominator above 0.

    >>> common_documents({"a": (1.0, 1.0), "b": (1.0, 1.0)}, {"a": (0.0, 0.0), "b": (2.0, 1.0)})
    [{'b': (1.0, 1.0)}, {'b': (2.0, 1.0)}]
    """
    shared = [name for name, (_, n) in sums[0].items() if n and all(name in s and s[name][1] for s in sums[1:])]
    return [{name: one[name] for name in shared} for one in sums]


def retention(
    measured: Mapping[str, Sequence[Measurement]], *, teacher: str | None, confidence: float = 0.95
) -> list[dict[str, Any]]:
    """Every model's figure as a share of the teacher's, and how much of the way from a baseline to it was gone.

    - ``retention``: model / teacher, with ``ratio_of_figures``' standard error.
    - ``gap_closed``, once per other student ``b``: ``(m - b) / (t - b)``; null, with a reason, where the teacher is not
      told from the baseline by two standard errors: the share of a gap that may be nothing says nothing.

    Metrics where the teacher's figure is 0 or missing, restated ones (``derived_from``) and those without a direction
    are left out.
    """
    if teacher is None:
        return []
    sums = {
        name: {m.metric: m for m in measurements if m.derived_from is None and m.higher_is_better is not None}
        for name, measurements in measured.items()
    }
    found = []
    for metric, theirs in sums[teacher].items():
        students = [name for name in sums if name != teacher and metric in sums[name]]
        for name in students:
            ours = sums[name][metric]
            if not theirs.value:
                continue
            pair = common_documents(ours.document_sums, theirs.document_sums)
            ratio = statistics.ratio_of_figures(*pair, confidence=confidence)
            gaps = {}
            for other in students:
                if other != name:
                    three = common_documents(
                        ours.document_sums, theirs.document_sums, sums[other][metric].document_sums
                    )
                    gaps[other] = asdict(statistics.gap_closed(*three, confidence=confidence))
            found.append({"metric": metric, "model": name, "teacher": teacher, **asdict(ratio), "gap_closed": gaps})
    return found


def transfer(models: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Each metric over students of several architectures or sizes: does what was distilled help more than one of them?

    Students count as one architecture where class, layers and width agree. Nothing is said for fewer than two.
    """
    students = {name: model for name, model in models.items() if model["role"] == "student"}
    shapes = {
        name: f"{m['architecture']}, {m['layers']} layers, {m['hidden_size']} wide" for name, m in students.items()
    }
    if len(set(shapes.values())) < 2:
        return []
    found = []
    for metric in dict.fromkeys(metric for model in students.values() for metric in model["metrics"]):
        values = {n: m["metrics"][metric]["value"] for n, m in students.items() if metric in m["metrics"]}
        direction = next(m["metrics"][metric] for m in students.values() if metric in m["metrics"])["higher_is_better"]
        kinds = {shapes[name] for name in values}
        known = [value for value in values.values() if math.isfinite(value)]
        if len(kinds) < 2 or len(known) < len(values) or direction is None:
            continue
        mean = math.fsum(known) / len(known)
        spread = math.sqrt(math.fsum((value - mean) ** 2 for value in known) / (len(known) - 1))
        found.append({
            "metric": metric, "architectures": sorted(kinds), "values": values, "mean": mean, "spread": spread,
            "worst": min(known) if direction else max(known),
        })  # fmt: skip
    return found


def power_flags(
    comparisons: Sequence[Mapping[str, Any]], models: Mapping[str, Mapping[str, Any]], *, teacher: str | None
) -> list[Flag]:
    """``underpowered`` where a primary metric does not tell the student from a baseline, though it might matter.

    What matters is a twentieth (``flags.MARGIN``) of the baseline's distance from the teacher; where the teacher has
    no such figure, of the baseline's own.
    """
    found = []
    for one in comparisons:
        metric, baseline = one["metric"], models[one["baseline"]]["metrics"][one["metric"]]
        if one["verdict"] != "no clear difference" or not baseline["primary"] or one["baseline"] == teacher:
            continue
        theirs = models[teacher]["metrics"].get(metric) if teacher is not None else None
        distance = abs(baseline["value"] - theirs["value"]) if theirs is not None else abs(baseline["value"])
        what = f"{one['model']} and {one['baseline']} in {baseline['label'].lower()}"
        margin = flags.MARGIN * distance
        found += [
            replace(
                flag, evidence={"model": one["model"], "baseline": one["baseline"], "metric": metric, **flag.evidence}
            )
            for flag in flags.underpowered(what, one["standard_error"], one["n_documents"], margin=margin)
        ]
    return found


def flags_of(
    measured: Mapping[str, Sequence[tuple[str, Measurement]]], given: Sequence[Flag], *, documents: int
) -> list[dict[str, Any]]:
    """All flags as they stand in the results: the caller's, of the number of documents, of every measurement."""
    found = [*given, *flags.few_documents(documents)]
    for name, measurements in measured.items():
        for evaluator, m in measurements:
            where = {"model": name, "metric": m.metric, "evaluator": evaluator}
            found += [replace(flag, evidence={**where, **flag.evidence}) for flag in m.flags]
    return [asdict(flag) | {"evidence": dict(flag.evidence)} for flag in found]


def write_documents(path: Path, measured: Mapping[str, Sequence[tuple[str, Measurement]]]) -> None:
    lines = [
        json.dumps({"model": name, "metric": m.metric, "document": document, "sum": total, "denominator": count})
        for name, measurements in measured.items()
        for _, m in measurements
        if m.derived_from is None
        for document, (total, count) in m.document_sums.items()
    ]
    atomic_write_bytes(path, ("\n".join(lines) + "\n").encode())


def finite(value: Any) -> Any:
    """JSON has no NaN or infinity: NaN becomes null, infinities the strings "inf" and "-inf"."""
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else ("inf" if value > 0 else "-inf")
    if isinstance(value, Mapping):
        return {str(key): finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [finite(entry) for entry in value]
    return value
