"""The sections of the page, in their order. Each is a module of its own: add one here and nothing else changes.

A section function takes a :class:`~distill_core.report.sections.view.View` and returns a
:class:`~distill_core.report.blocks.Section`, a :class:`~distill_core.report.sections.view.Missing` that says what is
missing, or None where the section makes no sense.
"""

from __future__ import annotations

from collections.abc import Callable

from distill_core.report.blocks import Section
from distill_core.report.sections import (
    active,
    aspects,
    cost,
    data,
    disagreements,
    integrity,
    learning,
    made_data,
    record,
    samples,
    side_by_side,
    synthesis,
)
from distill_core.report.sections.view import Missing, View

SectionFunction = Callable[[View], Section | Missing | None]

SECTIONS: tuple[SectionFunction, ...] = (
    side_by_side.section,
    active.section,
    aspects.fidelity_section,
    disagreements.section,
    aspects.of("calibration"),
    aspects.of("reasoning"),
    aspects.of("diversity"),
    integrity.section,
    aspects.of("fairness"),
    aspects.transfer_section,
    aspects.of("continual"),
    aspects.of("distillation"),
    aspects.of("influence"),
    cost.section,
    learning.section,
    synthesis.section,
    made_data.texts_section,
    made_data.synthesis_map_section,
    made_data.map_section,
    samples.section,
    data.section,
)


def sections_of(view: View) -> tuple[list[Section], list[Missing]]:
    """Every section that has something to show, and what is missing."""
    found = [function(view) for function in SECTIONS]
    shown = [one for one in found if isinstance(one, Section)]
    missing = [one for one in found if isinstance(one, Missing)]
    return [*shown, *aspects.others(view)], missing


__all__ = ["SECTIONS", "Missing", "Section", "View", "record", "sections_of"]
