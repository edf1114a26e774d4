"""Can it be trusted: every check with its outcome, and what evaluators measured of leaks and memory."""

from __future__ import annotations

from distill_core.report.blocks import Block, Cell, Column, Section, Table
from distill_core.report.sections.aspects import aspect_blocks
from distill_core.report.sections.view import View

OUTCOMES = {"passed": "passed", "flagged": "flagged", "unknown": "not checked"}


def section(view: View) -> Section:
    rows = [
        [Cell(check["title"]), Cell(OUTCOMES[check["outcome"]], verdict=check["outcome"]), Cell(check["said"])]
        for check in view.content.get("checks", [])
    ]
    own = {check["check"] for check in view.content.get("checks", [])}
    rows += [
        [
            Cell(f"{flag['flag'].replace('-', ' ')} (evaluator)"),
            Cell("flagged", verdict="flagged"),
            Cell(flag["reason"]),
        ]
        for flag in view.content.get("flags", [])
        if flag["flag"] not in own
    ]
    caption = "Checks of what the run recorded; what each looks at is in the documentation of the report."
    blocks: list[Block] = [Table(caption, [Column("Check"), Column("Outcome"), Column("Found")], rows)]
    names = view.aspects.get("integrity", [])
    return Section("integrity", "Integrity", blocks + (aspect_blocks(view, names) if names else []))
