"""Usefulness of all models, and every metric the verdict speaks of."""

from __future__ import annotations

from distill_core.report import charts
from distill_core.report.blocks import Absent, Block, Figures, Section
from distill_core.report.sections import retention
from distill_core.report.sections.view import View, held_out_caption


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
    figures = charts.position_figures(results, view.tone, useful)
    return Section("results", "Side by side", [*blocks, *([Figures(figures)] if figures else [])])
