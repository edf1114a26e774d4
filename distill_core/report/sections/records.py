"""Where records went, step by step, and why: a table per place where they were filtered."""

from __future__ import annotations

from distill_core.report.blocks import Block, Cell, Column, Detail, Table
from distill_core.report.funnel import FunnelTable, Step, funnel_tables
from distill_core.report.sections.view import View


def blocks(view: View) -> list[Block]:
    """Tables and, below each, examples of what was dropped."""
    tables, _ = funnel_tables(view.content.get("manifests", {}), view.content.get("data", {}))
    found: list[Block] = []
    for table in tables:
        found.append(_table(table))
        found += [_examples(table.title, step) for step in table.steps if step.examples]
    return found


def _table(table: FunnelTable) -> Table:
    numbers = [Column(label, number=True) for label in ("In", "Out", "Dropped")]
    rows = [
        [
            Cell(step.name),
            Cell(step.entered, sort=_count(step.entered)),
            Cell(step.left, step.made, sort=_count(step.left)),
            Cell(step.dropped, step.share, sort=_count(step.dropped)),
            Cell(", ".join(f"{kind}: {count}" for kind, count in step.reasons)),
        ]
        for step in table.steps
    ]
    caption = f"{table.title}: {table.sentence}. Each row adds up: what comes in goes out or is dropped."
    return Table(caption, [Column("Step"), *numbers, Column("Why")], rows)


def _count(shown: str) -> float:
    return float(shown.replace(",", ""))


def _examples(place: str, step: Step) -> Detail:
    lines = []
    for one in step.examples:
        said = f"{one.reason}: {one.detail}" if one.detail else one.reason
        where = f" (document {one.document})" if one.document else ""
        lines.append(f"{said}{where}\n    {'text not shown' if one.text is None else one.text}")
    return Detail(f"{place}: examples dropped by {step.name}", "", "\n".join(lines))
