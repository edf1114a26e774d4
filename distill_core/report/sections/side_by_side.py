"""Usefulness of all models, and every metric the verdict speaks of."""

from __future__ import annotations

from typing import Any

from distill_core.report import charts
from distill_core.report.blocks import Absent, Block, Cell, Column, Figures, Prose, Section, Table
from distill_core.report.sections import retention
from distill_core.report.sections.view import View, held_out_caption
from distill_core.report.text import MISSING, listing

MOST_SETTINGS = 40
"""Rows of the table of what differs; the manifests have the rest."""


def section(view: View) -> Section:
    results = view.results
    if results is None:
        return Section("results", "Side by side", [Absent("evaluation", "distill evaluate RUN.yaml")])
    useful = view.aspects.get("utility", [])
    primary = [name for name in charts.primary_metrics(results) if name not in useful]
    names = [*useful, *primary]
    blocks: list[Block] = [view.metric_table(names, held_out_caption(results))]
    kept = retention.table(view)
    blocks += [kept] if kept is not None else []
    blocks += _overlays(view)
    figures = charts.position_figures(results, view.tone, useful)
    return Section("results", "Side by side", [*blocks, *([Figures(figures)] if figures else [])])


def _overlays(view: View) -> list[Block]:
    """What was set otherwise for each compared student; all else was equal."""
    found = view.content.get("overlays") or {}
    rows = [
        [Cell(name), Cell(one["setting"]), Cell(_said(one["student"])), Cell(_said(one["other"]))]
        for name, settings in found.items()
        for one in settings
    ]
    columns = [Column("Compared student"), Column("Setting"), Column("student", model="student"), Column("its own")]
    caption = "What was set otherwise for each compared student, as recorded when it was trained; all else was equal."
    blocks: list[Block] = [Table(caption, columns, rows[:MOST_SETTINGS])] if rows else []
    if len(rows) > MOST_SETTINGS:
        blocks.append(Prose([f"{len(rows) - MOST_SETTINGS} more settings differ; the manifests below have them."]))
    same = [name for name, settings in found.items() if not settings]
    if same:
        blocks.append(Prose([f"Trained exactly as the student: {listing(same)}."]))
    beside = [name for name in (view.results or {}).get("models", {}) if name not in (view.teacher, "student", *found)]
    judged = (view.content.get("config") or {}).get("evaluate", {}).get("models") or {}
    if named := [name for name in beside if name in judged]:
        blocks.append(Prose([f"Not trained by this run but judged beside it: {listing(named)}."]))
    return blocks


def _said(value: Any) -> str:
    return MISSING if value is None else "yes" if value is True else "no" if value is False else str(value)
