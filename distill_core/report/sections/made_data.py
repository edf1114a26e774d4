"""Synthetic texts to read, and the map of a selection."""

from __future__ import annotations

from distill_core.report.blocks import Block, Detail, Figure, Figures, Prose, Sample, Samples, Section
from distill_core.report.data_map import map_svg
from distill_core.report.made_data import KEPT, REST
from distill_core.report.sections.view import View

TONES = {REST: "tone-teacher", KEPT: "tone-0"}


def texts_section(view: View) -> Section | None:
    """Records that the synthesizer made, with where each comes from."""
    blocks: list[Block] = []
    for sample in view.content.get("synthetic_samples") or ():
        name = f"Record {sample['number']}" + (f", {sample['document']}" if sample["document"] else "")
        parts = [("written" if answers else "given", text) for text, answers in sample["texts"]]
        blocks.append(Samples([Sample(name, parts)]))
        if sample["origin"]:
            blocks.append(Detail("Where it comes from", "", sample["origin"]))
    if not blocks:
        return None
    said = "Records that the synthesizer made, spread evenly over all of them, as they were written."
    return Section("synthetic-texts", "Synthetic texts", [Prose([said]), *blocks])


def map_section(view: View) -> Section | None:
    """What was kept of a pool and what was not, in a plane."""
    found = view.content.get("selection_map")
    if not found:
        return None
    legend = [(f"{label}: {group['count']:,}", TONES[label]) for label, group in found["groups"].items()]
    note = "sequences of the pool by their mean hidden states, in the plane of their two principal components"
    figure = Figure("Pool and selection", note, map_svg(found, TONES), legend)
    return Section("selection-map", "Map of the selection", [Figures([figure])])
