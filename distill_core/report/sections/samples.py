"""What the models write."""

from __future__ import annotations

from distill_core.report.blocks import Absent, Block, Prose, Sample, Samples, Section
from distill_core.report.sections.view import Missing, View

MOST_SAMPLES = 40
"""Further ones stay in ``report.json``."""


def section(view: View) -> Section | Missing:
    title = "In their own words"
    if view.results is None:
        return Section("samples", title, [Absent("sample", "distill evaluate RUN.yaml")])
    generations = view.results.get("generations") or {}
    samples = generations.get("samples", [])
    if not samples:
        how = "list some under report.prompts in the run file" if view.of_run else "give some with --prompt"
        return Missing(title, f"no prompts were given: {how}, then evaluate again")
    shown = [Sample(one["prompt"], list(one["outputs"].items())) for one in samples[:MOST_SAMPLES]]
    said = f"Greedy continuations of the same prompts, {generations['max_new_tokens']} tokens at most."
    if len(samples) > MOST_SAMPLES:
        said += f" The first {MOST_SAMPLES} of {len(samples):,}; report.json has all."
    blocks: list[Block] = [Prose([said]), Samples(shown)]
    return Section("samples", title, blocks)
