"""The table of `dataset_distillation`: accuracy, share of the gap closed, and the distance to the best baseline."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.dataset_baselines import BASELINES
from benchmarks.set_accuracy import Share, spread

CORESETS = [name for name in BASELINES if name not in ("class mean", "random, soft labels")]
"""Baselines that are real images with their own labels."""


def shares(result: Mapping[str, Any]) -> dict[int | None, dict[str, Share]]:
    """By budget (None: all images) and method, in the order of the file."""
    rows: dict[int | None, dict[str, list[dict[str, Any]]]] = {}
    for row in result["measurements"]:
        rows.setdefault(row["per_class"], {}).setdefault(row["method"], []).append(row)
    return {size: {name: spread(found) for name, found in by.items()} for size, by in rows.items()}


def ahead(one: Share, others: Mapping[str, Share], names: Sequence[str]) -> tuple[str, float, float] | None:
    """(name, difference, its standard error) against the best of the others; None where there is none."""
    there = [name for name in names if name in others and others[name] is not one]
    if not there:
        return None
    best = max(there, key=lambda name: others[name].mean)
    return best, one.mean - others[best].mean, math.hypot(one.error, others[best].error)


def table(result: Mapping[str, Any]) -> str:
    """Markdown, one table for each budget."""
    found, size = shares(result), result["settings"]
    full = found.pop(None, {}).get("full", Share(float("nan"), float("nan"), 0, 0))
    everything = f"{100 * full.mean:.1f} ± {100 * full.error:.1f} % ({full.networks} networks)"
    parts = [
        f"{size['data']}, {size['iterations']} steps, {size['epochs']} epochs; all images: "
        f"{everything if full.networks else 'not measured, and no share of it'}. ± is the standard error over sets "
        f"(over networks where there is one set); the gap's takes random and full as given; {result['machine']}."
    ]
    for per_class, methods in sorted((k, v) for k, v in found.items() if k is not None):
        parts.append(f"{per_class} per class:\n\n" + "\n".join(_lines(methods, full)))
    return "\n\n".join(parts)


def _lines(methods: Mapping[str, Share], full: Share) -> list[str]:
    lines = [
        "| training set | accuracy, % | of full, % | gap closed, % | over the best coreset | over the best baseline "
        "| sets x networks |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    base = methods["random"].mean if "random" in methods else float("nan")
    order = [*BASELINES, *(name for name in methods if name not in BASELINES)]
    for name in (one for one in order if one in methods):
        one = methods[name]
        gap, gap_error = (100 * value / (full.mean - base) for value in (one.mean - base, one.error))
        cells = [f"{100 * one.mean:.1f} ± {100 * one.error:.1f}"]
        cells += [f"{100 * one.mean / full.mean:.1f}", f"{gap:.0f} ± {gap_error:.0f}"] if full.networks else ["", ""]
        for rivals in (CORESETS, list(BASELINES)):
            compared = None if name in BASELINES else ahead(one, methods, rivals)
            cells.append("" if compared is None else _difference(*compared))
        lines.append(f"| {name} | {' | '.join(cells)} | {one.sets} x {one.networks} |")
    return lines


def _difference(name: str, value: float, error: float) -> str:
    shown = f"{100 * value:+.1f} ± {100 * error:.1f} ({name})"
    return f"**{shown}**" if value > 2 * error else shown
