"""Figures by the size of the training set, over compared runs: what more data buys, with every baseline beside it.

A run has one size: the sequences that its student learns from. Runs of several sizes give a line for each way of
getting data (its synthesizer or selector) and for each baseline; runs of one size give their mean, and its error.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from distill_core.engine import statistics
from distill_core.report.collect import CollectedRun
from distill_core.report.text import number


class Sized(Protocol):
    """What is needed of a compared run."""

    run: CollectedRun
    content: dict[str, Any]


def by_size(runs: Sequence[Sized]) -> dict[str, Any] | None:
    """Lines by metric: ``{metric: {"label", ..., "lines": {name: [{"size", "value", "standard_error", "runs"}]}}}``.

    None where all runs have one size. The error is over the runs of one size where there are two or more, else the one
    by document. The teacher is left out: it learns from none of this data.
    """
    sizes = {id(one): size_of(one.run) for one in runs}
    if len({size for size in sizes.values() if size is not None}) < 2:
        return None
    ways = {id(one): way_of(one.run) for one in runs}
    several = len(set(ways.values())) > 1
    figures: dict[str, dict[str, dict[int, list[Any]]]] = {}
    described: dict[str, Any] = {}
    for one in runs:
        size = sizes[id(one)]
        if size is None:
            continue
        students = [name for name, model in one.content["results"]["models"].items() if model["role"] != "teacher"]
        for name in students:
            line = (ways[id(one)] if several else name) if name == students[0] else name
            for metric, entry in one.content["results"]["models"][name]["metrics"].items():
                if entry["primary"] and not entry["derived_from"]:
                    described.setdefault(metric, {k: entry[k] for k in ("label", "unit", "higher_is_better")})
                    figures.setdefault(metric, {}).setdefault(line, {}).setdefault(size, []).append(entry)
    return {
        metric: {
            **described[metric],
            "lines": {line: [_point(size, points[size]) for size in sorted(points)] for line, points in lines.items()},
        }
        for metric, lines in figures.items()
    }


def _point(size: int, entries: Sequence[Any]) -> dict[str, Any]:
    values = [number(entry["value"]) for entry in entries]
    if len(values) == 1:
        return {"size": size, "value": values[0], "standard_error": number(entries[0]["standard_error"]), "runs": 1}
    found = statistics.estimate({str(index): (value, 1.0) for index, value in enumerate(values)})
    return {"size": size, "value": found.value, "standard_error": found.standard_error, "runs": len(values)}


def size_of(run: CollectedRun) -> int | None:
    """Sequences that the student of a run learns from; None where that is not recorded."""
    everything = ((run.config.get("train") or {}).get("learns_from")) == "all"
    split = "select" if "select" in run.data and not everything else "train"
    found = (run.data.get(split) or {}).get("sequences")
    return found if isinstance(found, int) else None


def way_of(run: CollectedRun) -> str:
    """How the training data came about, in a word or two."""
    synthesizer = (run.config.get("synthesize") or {}).get("use")
    selector = ((run.config.get("select") or {}).get("selector") or {}).get("use")
    return ", ".join(str(part) for part in (synthesizer, selector) if part) or "all data"
