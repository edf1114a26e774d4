"""What benchmarks of small training sets share: networks measured one by one, files that go on, the table.

A *unit* is a network trained on a set: (method, number of the set, number of the network). Its line in the file holds
the accuracy on held-out data.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from benchmarks.measure import machine
from benchmarks.result import command_line, load, save

Unit = tuple[str, int, int]


class Scene(Protocol):
    """The data of a run, and what is made of them once."""

    def measured(self, method: str, number: int, network: int) -> float:
        """Held-out accuracy of one fresh network."""
        ...


def measure(
    name: str,
    options: argparse.Namespace,
    settings: Mapping[str, Any],
    units: Sequence[Unit],
    own_options: Mapping[str, Any],
    scene: Callable[[argparse.Namespace], Scene],
) -> dict[str, Any]:
    """Measure the units that the result file lacks; it is saved after each.

    Args:
        name: of the benchmark.
        options: of the command; `json` is the file.
        settings: what must be equal for lines to stand in one table.
        units: what is wanted, in order.
        own_options: by method; one whose options were changed is measured again.
        scene: makes the data, if anything is missing.
    """
    result: dict[str, Any] = {
        "benchmark": name,
        "command": command_line(options),
        "machine": machine(),
        "settings": dict(settings),
        "measurements": [],
    }
    path = Path(options.json) if options.json else None
    if path is not None and path.exists():
        found = load(path)
        if found["settings"] != result["settings"]:
            raise SystemExit(f"{path} holds other settings, {found['settings']}: name another file, or remove it")
        rows = found["measurements"]
        result["measurements"] = [row for row in rows if row.get("options") == own_options.get(row["method"])]
    done = {(row["method"], row["set"], row["network"]) for row in result["measurements"]}
    missing = [unit for unit in units if unit not in done]
    if not missing:
        return result
    stage = scene(options)
    for method, number, network in missing:
        share = stage.measured(method, number, network)
        line = {"method": method, "set": number, "network": network, "accuracy": round(share, 6)}
        own = {"options": own_options[method]} if method in own_options else {}
        result["measurements"].append(line | own)
        if path is not None:
            save(result, path)
    return result


def spread(rows: Sequence[dict[str, Any]]) -> tuple[float, float]:
    """Mean accuracy and its standard error: over sets where there are several, else over networks."""
    by_set: dict[int, list[float]] = {}
    for row in rows:
        by_set.setdefault(row["set"], []).append(row["accuracy"])
    means = [statistics.mean(values) for values in by_set.values()]
    values = means if len(means) > 1 else [row["accuracy"] for row in rows]
    error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else float("nan")
    return statistics.mean(means), error


def accuracy_table(measurements: Sequence[dict[str, Any]], methods: Sequence[str], *, over_random: bool = False) -> str:
    """Markdown: accuracy, share of the full accuracy, share of the gap from random to full that is closed.

    With `over_random` also the difference to random sets in standard errors of the difference.
    """
    rows: dict[str, list[dict[str, Any]]] = {}
    for row in measurements:
        rows.setdefault(row["method"], []).append(row)
    found = {method: spread(rows[method]) for method in methods if method in rows}
    full, (base, base_error) = found.get("full", (float("nan"),) * 2)[0], found.get("random", (float("nan"),) * 2)
    heads = ["training set", "accuracy, %", "of full, %", "gap closed, %"]
    heads += ["over random, in s.e."] * over_random + ["sets x networks"]
    lines = [f"| {' | '.join(heads)} |", "|---|" + "---:|" * (len(heads) - 1)]
    for method, (mean, error) in found.items():
        gap, gap_error = 100 * (mean - base) / (full - base), 100 * error / (full - base)
        sets = len({row["set"] for row in rows[method]})
        cells = [f"{100 * mean:.1f} ± {100 * error:.1f}", f"{100 * mean / full:.1f}", f"{gap:.0f} ± {gap_error:.0f}"]
        if over_random:
            apart = (mean - base) / (error**2 + base_error**2) ** 0.5
            cells.append("" if method == "random" else f"{apart:+.1f}")
        lines.append(f"| {method} | {' | '.join(cells)} | {sets} x {len(rows[method]) // sets} |")
    return "\n".join(lines)
