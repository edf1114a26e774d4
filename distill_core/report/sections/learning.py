"""How the trainings went, and what more of the same would buy."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from distill_core.report import charts
from distill_core.report.blocks import Absent, Block, Cell, Column, Figures, Prose, Section, Table
from distill_core.report.extrapolation import Curve, extrapolate, held_out_points
from distill_core.report.sections.view import View
from distill_core.report.text import decimals, fixed, short


def section(view: View) -> Section | None:
    trainings = view.content.get("trainings", {})
    figures = charts.learning_figures(trainings, view.tone)
    if not figures and not view.of_run:
        return None
    blocks: list[Block] = [Figures(figures) if figures else Absent("training", "distill train RUN.yaml")]
    curves = {name: _curve(lines) for name, lines in trainings.items()}
    known = {name: curve for name, curve in curves.items() if curve is not None and not curve.misfit}
    if known:
        blocks += [Prose([_caution(view)]), _table(known)]
    misfits = [f"{name}: {curve.misfit}" for name, curve in curves.items() if curve is not None and curve.misfit]
    if misfits:
        blocks.append(Prose([f"Not carried on to more tokens: {said}." for said in misfits]))
    return Section("learning", "Learning curves", blocks)


def _curve(lines: Any) -> Curve | None:
    tokens, losses = held_out_points(lines)
    return extrapolate(tokens, losses) if all(a < b for a, b in pairwise(tokens)) else None


def _caution(view: View) -> str:
    schedule = ((view.content.get("config") or {}).get("train") or {}).get("lr_schedule", "cosine")
    falls = (
        ""
        if schedule == "constant"
        else f" The learning rate fell over this training ({schedule}), and part of the gain near its end came from "
        "that: read the figures as an upper bound of what more tokens buy."
    )
    return (
        "What more tokens of the same data would buy, from the held-out curve carried on as a + b t^(-c). Intervals "
        f"are of this curve alone, its seed and its few held-out points.{falls}"
    )


def _table(curves: dict[str, Curve]) -> Table:
    first = next(iter(curves.values()))
    columns = [Column("Training"), Column("Tokens", number=True), Column("Held-out loss", number=True)]
    columns += [Column(f"{p.tokens / first.last_tokens:g} times the tokens", number=True) for p in first.predictions]
    columns.append(Column("Floor", number=True))
    rows = []
    for name, curve in curves.items():
        row = [Cell(name), Cell(short(curve.last_tokens), sort=curve.last_tokens)]
        row.append(Cell(fixed(curve.last_value, 3), sort=curve.last_value))
        for one in curve.predictions:
            places = decimals(one.value, (one.high - one.low) / 4)
            interval = f"{fixed(one.low, places)} to {fixed(one.high, places)}"
            row.append(Cell(fixed(one.value, places), interval, sort=one.value))
        rows.append([*row, Cell(fixed(curve.floor, 2), sort=curve.floor)])
    return Table("Predicted held-out loss with 95 % intervals; floor: the fitted a.", columns, rows)
