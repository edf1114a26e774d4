"""Active rounds: what each bought and brought, beside baselines of the same budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from distill_core.report.blocks import Block, Cell, Column, Figure, Figures, Prose, Section, Table
from distill_core.report.sections.view import View
from distill_core.report.svg import Series, line_chart
from distill_core.report.text import MISSING, decimals, fixed, number


def section(view: View) -> Section | None:
    found = view.content.get("active")
    if not found:
        return None
    blocks: list[Block] = []
    if found["stopped"]:
        blocks.append(Prose([f"There is no further round: {found['stopped']}."]))
    names = list(dict.fromkeys(name for one in found["rounds"] for name in one["compare"]))
    blocks += [_figures(view, found, names), _table(found, names)]
    said = "The rest of this page is about the last round. The held-out data also said when to stop."
    return Section("active", "Active rounds", [*blocks, Prose([said])])


def _scale(found: Mapping[str, Any]) -> tuple[float, str]:
    return (100.0, "%") if found["unit"] == "fraction" else (1.0, found["unit"])


def _figures(view: View, found: Mapping[str, Any], names: Sequence[str]) -> Figures:
    """The metric over the labels bought so far; baselines start from the round that all share."""
    scale, unit = _scale(found)
    series = []
    for name in ["student", *names]:
        points, errors, bought = [], [], 0
        for one in found["rounds"]:
            entry = one["compare"].get(name, one)  # the student's own, and of a baseline the round that all share
            bought += entry["sequences"]
            points.append((float(bought), scale * number(entry["value"])))
            errors.append(scale * number(entry["standard_error"]))
        series.append(Series(name, view.tone.get(name, "tone-5"), points, errors, "marked"))
    better = "higher" if found["higher_is_better"] else "lower"
    note = ", ".join(part for part in (unit, f"{better} is better", "band: \u00b1 1 standard error") if part)
    svg = line_chart(
        series[::-1],
        title=f"{found['label']} by labels bought",
        x_label="sequences bought",
        x_ticks=[x for x, _ in series[0].points][:: -(-len(found["rounds"]) // 6)],
    )
    return Figures([Figure(f"{found['label']} by budget", note, svg)])


def _table(found: Mapping[str, Any], names: Sequence[str]) -> Table:
    scale, unit = _scale(found)
    columns = [Column("Round"), Column("Bought", number=True), Column("student", number=True, model="student")]
    for name in names:
        columns += [Column(name, number=True, model=name), Column(f"student against {name}", number=True)]
    rows = []
    for one in found["rounds"]:
        row = [Cell(str(one["round"]), sort=one["round"])]
        row.append(Cell(f"{one['sequences']:,}", f"{one['tokens']:,} tokens", sort=one["sequences"]))
        row.append(_value(one, scale))
        for name in names:
            rival = one["compare"].get(name)
            row += [Cell("the same"), Cell(MISSING)] if rival is None else [_value(rival, scale), _gap(rival, scale)]
        rows.append(row)
    in_what = f"{found['label']}{f', {unit}' if unit else ''}"
    return Table(
        f"{in_what}, with standard errors by document; differences are paired by document. Every round of a baseline "
        "bought by the same budget and trained as long.",
        columns,
        rows,
    )


def _value(entry: Mapping[str, Any], scale: float) -> Cell:
    value, error = scale * number(entry["value"]), scale * number(entry["standard_error"])
    places = decimals(value, error)
    return Cell(fixed(value, places), f"\u00b1 {fixed(error, places)}", sort=entry["value"])


def _gap(rival: Mapping[str, Any], scale: float) -> Cell:
    value, error = scale * number(rival["difference"]), scale * number(rival["difference_standard_error"])
    places = decimals(value, error)
    return Cell(fixed(value, places, sign=True), f"\u00b1 {fixed(error, places)}", sort=rival["difference"])
