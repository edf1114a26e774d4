"""What benchmarks of small training sets share: networks measured one by one, files that go on, the table.

A *unit* is a network trained on a set, as a tuple: the method, the number of the set, that of the network, and whatever
else a benchmark varies. Its line in the file holds these and the accuracy on held-out data.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from benchmarks.measure import machine
from benchmarks.result import earlier, save

Unit = tuple[Any, ...]


class Scene(Protocol):
    """The data of a run, and what is made of them once."""

    def measured(self, *unit: Any) -> float:
        """Held-out accuracy of one fresh network."""
        ...


class Share(NamedTuple):
    """Mean accuracy and its standard error, how many sets, and networks on each."""

    mean: float
    error: float
    sets: int
    networks: int


def measure(
    options: argparse.Namespace,
    settings: Mapping[str, Any],
    units: Sequence[Unit],
    own_options: Mapping[str, Any],
    scene: Callable[[argparse.Namespace], Scene],
    *,
    command: str,
    names: Sequence[str] = ("method", "set", "network"),
) -> dict[str, Any]:
    """Measure the units that the result file lacks; it is saved after each.

    Args:
        options: of the benchmark; `json` is the file.
        settings: what must be equal for lines to stand in one table.
        units: what is wanted, in order.
        own_options: by method; one whose options were changed is measured again.
        scene: makes the data, if anything is missing.
        command: the command that stands in the file.
        names: what the parts of a unit are called in the file; one is `method`.
    """
    result: dict[str, Any] = {
        "benchmark": options.name,
        "command": command,
        "machine": machine(),
        "settings": dict(settings),
        "measurements": [],
    }
    path = Path(options.json) if options.json else None
    if found := earlier(options.json, settings=result["settings"]):
        rows = found["measurements"]
        result["measurements"] = [row for row in rows if row.get("options") == own_options.get(row["method"])]
    done = {tuple(row[name] for name in names) for row in result["measurements"]}
    missing = [unit for unit in units if unit not in done]
    if not missing:
        return result
    stage = scene(options)
    for unit in missing:
        named = dict(zip(names, unit, strict=True))
        method = named["method"]
        line = {**named, "accuracy": round(stage.measured(*unit), 6)}
        own = {"options": own_options[method]} if method in own_options else {}
        result["measurements"].append(line | own)
        if path is not None:
            save(result, path)
    return result


def spread(rows: Sequence[dict[str, Any]]) -> Share:
    """Of the accuracies of one method: over sets where there are several, else over networks."""
    by_set: dict[int, list[float]] = {}
    for row in rows:
        by_set.setdefault(row["set"], []).append(row["accuracy"])
    means = [statistics.mean(values) for values in by_set.values()]
    values = means if len(means) > 1 else [row["accuracy"] for row in rows]
    error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else float("nan")
    return Share(statistics.mean(means), error, len(by_set), len(rows) // len(by_set))


def accuracy_table(measurements: Sequence[dict[str, Any]], methods: Sequence[str], *, over_random: bool = False) -> str:
    """Markdown: accuracy, share of the full accuracy, share of the gap from random to full that is closed.

    With `over_random` also the difference to random sets in standard errors of the difference.
    """
    rows: dict[str, list[dict[str, Any]]] = {}
    for row in measurements:
        rows.setdefault(row["method"], []).append(row)
    found = {method: spread(rows[method]) for method in methods if method in rows}
    nothing = Share(float("nan"), float("nan"), 0, 0)
    full, random = found.get("full", nothing).mean, found.get("random", nothing)
    heads = ["training set", "accuracy, %", "of full, %", "gap closed, %"]
    heads += ["over random, in s.e."] * over_random + ["sets x networks"]
    lines = [f"| {' | '.join(heads)} |", "|---|" + "---:|" * (len(heads) - 1)]
    for method, (mean, error, sets, networks) in found.items():
        gap, gap_error = 100 * (mean - random.mean) / (full - random.mean), 100 * error / (full - random.mean)
        cells = [f"{100 * mean:.1f} ± {100 * error:.1f}", f"{100 * mean / full:.1f}", f"{gap:.0f} ± {gap_error:.0f}"]
        if over_random:
            apart = (mean - random.mean) / (error**2 + random.error**2) ** 0.5
            cells.append("" if method == "random" else f"{apart:+.1f}")
        lines.append(f"| {method} | {' | '.join(cells)} | {sets} x {networks} |")
    return "\n".join(lines)
