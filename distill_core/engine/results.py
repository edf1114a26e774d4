"""What stands in ``results.json``: figures with their uncertainty, paired comparisons, plain JSON values."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from distill_core.engine import statistics
from distill_core.files import atomic_write_bytes
from distill_core.interfaces import Measurement


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
    Metrics that restate another (``derived_from``) are not compared twice.
    """
    by_metric: dict[str, dict[str, Measurement]] = {}
    for name, measurements in measured.items():
        for m in measurements:
            if m.derived_from is None:
                by_metric.setdefault(m.metric, {})[name] = m
    comparisons = []
    for metric, by_model in by_metric.items():
        if student is None or student not in by_model:
            continue
        ours = by_model[student]
        others = [name for name in by_model if name != student]
        pairs = [
            statistics.paired_difference(ours.document_sums, by_model[name].document_sums, confidence=confidence)
            for name in others
        ]
        family = [name for name in others if name != teacher]
        p_values = {name: pair.p_value for name, pair in zip(others, pairs, strict=True)}
        adjusted = p_values | dict(zip(family, statistics.holm([p_values[name] for name in family]), strict=True))
        for name, pair in zip(others, pairs, strict=True):
            p_adjusted = adjusted[name]
            verdict = statistics.verdict(
                pair, higher_is_better=ours.higher_is_better, p_adjusted=p_adjusted, confidence=confidence
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
