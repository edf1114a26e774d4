"""One section for each aspect that has metrics: a table, charts of the main ones, and what the details hold."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from distill_core.report import charts
from distill_core.report.blocks import Block, Cell, Column, Figures, Prose, Section, Table
from distill_core.report.fidelity import fidelity
from distill_core.report.sections.view import ASPECTS, DRAWN, Missing, View
from distill_core.report.summary import metric_rows
from distill_core.report.text import MISSING, figure, fixed, number

MOST_ROWS = 40
"""Longer details stay in ``report.json``."""

MOST_CHARTS = 4

Answer = Section | Missing


def of(aspect: str) -> Callable[[View], Answer]:
    """The section function of one aspect."""
    return lambda view: _section(aspect, view)


def _section(aspect: str, view: View) -> Answer:
    title, names = ASPECTS.get(aspect, aspect.capitalize()), view.aspects.get(aspect, [])
    if view.results is None or not names:
        return Missing(title, _why(aspect, view))
    return Section(aspect, title, aspect_blocks(view, names))


def aspect_blocks(view: View, names: Sequence[str]) -> list[Block]:
    """Table, charts and details of some metrics."""
    assert view.results is not None
    results = view.results
    blocks: list[Block] = [
        view.metric_table(names, "As in the first table: intervals, paired differences, Holm\u2019s correction.")
    ]
    figures = charts.position_figures(results, view.tone, names) + charts.reliability_figures(results, view.tone, names)
    if not figures:
        figures = charts.metric_figures(results, view.tone, names[:MOST_CHARTS])
    return [*blocks, *([Figures(figures)] if figures else []), *_details(results, names)]


def _why(aspect: str, view: View) -> str:
    if view.results is None:
        return "nothing was evaluated yet: distill evaluate RUN.yaml"
    reasons = [f"{one['evaluator']}: {one['reason']}" for one in view.results.get("not_measured", [])]
    if aspect == "fidelity" and reasons:
        return "; ".join(reasons)
    return "no evaluator measured it: name one under evaluate.evaluators (distill plugins list shows them)"


def transfer_section(view: View) -> Answer:
    """Each metric over students of several architectures."""
    found = (view.results or {}).get("transfer") or []
    names = view.aspects.get("transfer", [])
    if not found and not names:
        return Missing(ASPECTS["transfer"], "this needs students of several architectures or sizes in one evaluation")
    labels = ("Metric", "Mean", "Spread", "Worst", "Architectures")
    columns = [Column(label, number=0 < index < 4) for index, label in enumerate(labels)]
    described = metric_rows(view.results or {"models": {}})
    rows = [
        [
            Cell(described[one["metric"]]["label"] if one["metric"] in described else one["metric"]),
            *(_cell(one[key]) for key in ("mean", "spread", "worst")),
            Cell("; ".join(one["architectures"])),
        ]
        for one in found
    ]
    blocks: list[Block] = [Table("Over students of several shapes; spread: standard deviation.", columns, rows)]
    return Section(
        "transfer", ASPECTS["transfer"], (blocks if found else []) + (aspect_blocks(view, names) if names else [])
    )


def fidelity_section(view: View) -> Answer:
    """Fidelity says besides whether the student is a copy of its teacher, or only useful."""
    found = _section("fidelity", view)
    told = fidelity(view.results, view.tone)
    if isinstance(found, Missing) or told is None:
        return found
    blocks: list[Block] = [Prose(told.sentences)]
    for block in found.blocks:
        blocks.append(Figures([*block.figures, *told.figures]) if isinstance(block, Figures) else block)
    return Section(found.name, found.title, blocks)


def _details(results: Mapping[str, Any], names: Sequence[str]) -> list[Block]:
    """Further series of a metric's ``detail``: flat dictionaries side by side by model, lists of them as tables."""
    blocks: list[Block] = []
    described = metric_rows(results)
    split = _split(results, names)
    blocks += [split] if split is not None else []
    for name in names:
        by_model = {m: e["metrics"][name]["detail"] for m, e in results["models"].items() if name in e["metrics"]}
        for key in dict.fromkeys(key for detail in by_model.values() for key in detail if key not in DRAWN):
            found = {model: detail[key] for model, detail in by_model.items() if key in detail}
            caption = f"{described[name]['label']}: {key.replace('_', ' ')}"
            blocks += _side_by_side(found, caption) + _lists(found, caption)
    return blocks


def _split(results: Mapping[str, Any], names: Sequence[str]) -> Table | None:
    """Parts of metrics (where the teacher is right, ...), as figures of their own: one row each."""
    described, rows, models = metric_rows(results), [], list(results["models"])
    for name in names:
        details = {m: e["metrics"][name]["detail"] for m, e in results["models"].items() if name in e["metrics"]}
        for key in dict.fromkeys(k for detail in details.values() for k, part in detail.items() if _part(part)):
            cells = [Cell(described[name]["label"], key.replace("_", " "))]
            for model in models:
                part = details.get(model, {}).get(key)
                cells.append(_part_cell(part, described[name]["unit"]) if _part(part) else Cell(MISSING))
            rows.append(cells)
    if not rows:
        return None
    columns = [Column("Part"), *(Column(model, number=True, model=model) for model in models)]
    return Table("Metrics apart for parts of the rows; \u00b1 is one standard error.", columns, rows)


def _part(value: Any) -> bool:
    return isinstance(value, Mapping) and {"value", "standard_error"} <= value.keys()


def _part_cell(part: Mapping[str, Any], unit: str) -> Cell:
    shown = figure({"interval": (None, None), **part, "unit": unit})
    count = f"n = {part['n']:,}" if isinstance(part.get("n"), int) else ""
    return Cell(f"{shown['value']} {shown['error']}".strip(), count, sort=number(part["value"]))


def _side_by_side(found: Mapping[str, Any], caption: str) -> list[Block]:
    """``{group: number}`` of several models."""
    flat = {
        model: value
        for model, value in found.items()
        if isinstance(value, Mapping) and value and not _part(value) and all(_scalar(entry) for entry in value.values())
    }
    keys = list(dict.fromkeys(key for value in flat.values() for key in value))
    if not keys or len(keys) > MOST_ROWS:
        return []
    columns = [Column("Group"), *(Column(model, number=True, model=model) for model in flat)]
    return [Table(caption, columns, [[Cell(str(k)), *(_cell(v.get(k)) for v in flat.values())] for k in keys])]


def _lists(found: Mapping[str, Any], caption: str) -> list[Block]:
    """``[{column: value}, ...]``, a table per model."""
    blocks: list[Block] = []
    for model, value in found.items():
        if not isinstance(value, list) or not value or len(value) > MOST_ROWS:
            continue
        if not all(isinstance(row, Mapping) and row and all(_scalar(entry) for entry in row.values()) for row in value):
            continue
        keys = list(dict.fromkeys(key for row in value for key in row))
        numeric = {key for key in keys if not any(isinstance(row.get(key), str) for row in value)}
        columns = [Column(str(key).replace("_", " "), number=key in numeric) for key in keys]
        blocks.append(Table(f"{caption}, {model}", columns, [[_cell(row.get(key)) for key in keys] for row in value]))
    return blocks


def _scalar(value: Any) -> bool:
    return value is None or isinstance(value, str | int | float)


def _cell(value: Any) -> Cell:
    if isinstance(value, bool) or value is None or (isinstance(value, str) and value not in ("inf", "-inf")):
        return Cell(MISSING if value is None else str(value))
    figure = number(value)
    return Cell(f"{value:,}" if isinstance(value, int) else fixed(figure, 4), sort=figure)


def others(view: View) -> list[Section]:
    """Aspects that a plugin made up: a section each."""
    return [
        Section(f"aspect-{index}", aspect.replace("_", " ").capitalize(), aspect_blocks(view, names))
        for index, (aspect, names) in enumerate(view.aspects.items())
        if aspect not in ASPECTS
    ]
