"""What the student keeps of its teacher's figures, and how much of the way from each baseline it has gone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from distill_core.report.blocks import Cell, Column, Table
from distill_core.report.sections.view import View
from distill_core.report.summary import metric_rows
from distill_core.report.text import MISSING, fixed, number


def table(view: View) -> Table | None:
    """The student's rows of ``results["retention"]`` on what a model is for; None where there are none.

    Usefulness, reasoning, gaps between groups (their amplification) and what is primary; ``results.json`` has all.
    """
    results = view.results or {}
    rows = [row for row in results.get("retention", []) if row["model"] == view.student]
    described = metric_rows(results) if rows else {}
    kept = (*view.aspects.get("utility", ()), *view.aspects.get("reasoning", ()), *view.aspects.get("fairness", ()))
    rows = [row for row in rows if row["metric"] in kept or described.get(row["metric"], {}).get("primary")]
    if not rows:
        return None
    baselines = list(dict.fromkeys(name for row in rows for name in row["gap_closed"]))
    columns = [Column("Metric"), Column("Student / teacher", number=True)]
    columns += [Column(f"Gap to the teacher closed from {name}", number=True) for name in baselines]
    cells = [
        [
            Cell(described[row["metric"]]["label"]),
            _share(row),
            *(_share(row["gap_closed"].get(name)) for name in baselines),
        ]
        for row in rows
    ]
    caption = (
        "What is kept of the teacher's figure, and the share of the way from a baseline (0 %) to the teacher (100 %) "
        "that the student has gone; with intervals, paired by document. A gap below two standard errors has no share."
    )
    return Table(caption, columns, cells)


def _share(found: Mapping[str, Any] | None) -> Cell:
    if found is None:
        return Cell(MISSING)
    value = 100 * number(found["value"])
    if value != value:
        return Cell(MISSING, "no clear gap" if found.get("reason") else "")
    low, high = (100 * number(end) for end in found["interval"])
    interval = "" if low != low else f"{fixed(low, 1)} to {fixed(high, 1)}"
    return Cell(f"{fixed(value, 1)}\u202f%", interval, sort=value)
