"""How the trainings went."""

from __future__ import annotations

from distill_core.report import charts
from distill_core.report.blocks import Absent, Figures, Section
from distill_core.report.sections.view import View


def section(view: View) -> Section | None:
    figures = charts.learning_figures(view.content.get("trainings", {}), view.tone)
    if not figures and not view.of_run:
        return None
    block = Figures(figures) if figures else Absent("training", "distill train RUN.yaml")
    return Section("learning", "Learning curves", [block])
