"""Synthetic texts to read, and the map of a selection."""

from __future__ import annotations

from distill_core.report.blocks import Block, Detail, Figure, Figures, Prose, Sample, Samples, Section
from distill_core.report.data_map import map_svg
from distill_core.report.made_data import KEPT, MADE, REAL, REST
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


def synthesis_map_section(view: View) -> Section | None:
    """Synthetic sequences among real ones, in a plane."""
    found = view.content.get("synthesis_map")
    if not found:
        return None
    tones = {REAL: "tone-teacher", MADE: "tone-0"}
    counts = {label: (group["count"], found["sequences"].get(label)) for label, group in found["groups"].items()}
    legend = [
        (f"{label}: {count:,}" + (f" of {total:,}" if total not in (None, count) else ""), tones.get(label, "tone-1"))
        for label, (count, total) in counts.items()
    ]
    note = f"{found['of']}, in the plane of their two principal components"
    figure = Figure(
        "Real and synthetic", note, map_svg(found, {label: tones.get(label, "tone-1") for label in counts}), legend
    )
    said = (
        "Each dot is a sequence; near dots are alike in these two directions, which need not be the ones that matter "
        "for the task. The real ones are the held-out data that students are judged on, not what the synthesizer read."
    )
    return Section("synthesis-map", "Real and synthetic data", [Figures([figure]), Prose([said])])


def map_section(view: View) -> Section | None:
    """What was kept of a pool and what was not, in a plane."""
    found = view.content.get("selection_map")
    if not found:
        return None
    legend = [(f"{label}: {group['count']:,}", TONES[label]) for label, group in found["groups"].items()]
    note = "sequences of the pool by their mean hidden states, in the plane of their two principal components"
    figure = Figure("Pool and selection", note, map_svg(found, TONES), legend)
    return Section("selection-map", "Map of the selection", [Figures([figure])])
