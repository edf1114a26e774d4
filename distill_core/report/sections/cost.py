"""What the student costs to run and what it cost to make."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from distill_core.report.blocks import Block, Cell, Column, Section, Table
from distill_core.report.sections.aspects import aspect_blocks
from distill_core.report.sections.view import Missing, View
from distill_core.report.text import MISSING, short, size


def section(view: View) -> Section | Missing:
    results = view.results
    if results is None:
        return Missing("Cost", "nothing was evaluated yet: distill evaluate RUN.yaml")
    blocks: list[Block] = [_running(results)]
    names = view.aspects.get("cost", [])
    if names:
        blocks += aspect_blocks(view, names)
    made = _making(view)
    return Section("cost", "Cost", blocks + ([made] if made else []))


def _running(results: Mapping[str, Any]) -> Table:
    models = results["models"]
    efficiency = results.get("efficiency") or {}
    speed = efficiency.get("models", {})
    rows: list[list[Cell]] = []

    def row(label: str, note: str, value: Callable[[str], Cell]) -> None:
        rows.append([Cell(label, note), *(value(name) for name in models)])

    row("Parameters", "", lambda n: Cell(short(models[n]["parameters"]), sort=models[n]["parameters"]))
    row("of them embeddings", "", lambda n: Cell(short(models[n]["embedding_parameters"])))
    row("Layers", "", lambda n: Cell(str(models[n]["layers"] or MISSING)))
    row(
        "Weights on disk",
        "",
        lambda n: Cell(size(models[n]["bytes_on_disk"]) if models[n]["bytes_on_disk"] else MISSING),
    )
    for label, key in (("Reads", "prefill"), ("Writes", "decode")):
        if speed:
            row(label, "tokens/s, slowest to fastest round", lambda n, key=key: _speed(speed.get(n), key))  # type: ignore[misc]
    for label, key in (("Weights in memory", "weight_bytes"), ("Peak memory", "peak_bytes")):
        held = {name: one[key] for name, one in speed.items() if isinstance(one.get(key), int | float)}
        if held:
            row(label, "", lambda n, held=held: _bytes(held.get(n)))  # type: ignore[misc]
    caption = "Size and speed"
    if efficiency:
        settings = results["settings"]
        caption += (
            f": greedy, one sequence at a time, {efficiency['prefill_tokens']} tokens read and "
            f"{efficiency['decode_tokens']} written, models interleaved over {efficiency['rounds']} rounds on "
            f"{settings['device']} with {settings['threads']} threads"
        )
    columns = [Column("Cost"), *(Column(name, number=True, model=name) for name in models)]
    return Table(f"{caption}.", columns, rows)


def _bytes(value: float | None) -> Cell:
    return Cell(MISSING) if value is None else Cell(size(value), sort=value)


def _speed(speed: Mapping[str, Any] | None, key: str) -> Cell:
    if speed is None:
        return Cell(MISSING)
    low, high = speed[f"{key}_range"]
    value = speed[f"{key}_tokens_per_s"]
    return Cell(short(value), f"{short(low)} to {short(high)}", sort=value)


def _making(view: View) -> Table | None:
    """Time of every stage, and steps and tokens of the trainings."""
    rows = []
    for name, manifest in view.content.get("manifests", {}).items():
        seconds = manifest.get("seconds")
        lines = view.content.get("trainings", {}).get(name.removeprefix("train/")) or []
        tokens = sum(line.get("tokens", 0) for line in lines) if name.startswith("train/") else 0
        if isinstance(seconds, int | float):
            steps = f"{lines[-1]['step']:,}" if tokens else MISSING
            cpu = manifest.get("cpu_seconds")
            rows.append(
                [
                    Cell(name),
                    Cell(f"{seconds:,.0f}", sort=float(seconds)),
                    Cell(f"{cpu:,.0f}" if isinstance(cpu, int | float) and cpu else MISSING),
                    Cell(steps),
                    Cell(short(tokens) if tokens else MISSING, sort=float(tokens)),
                ]
            )
    if not rows:
        return None
    labels = ("Stage", "Seconds", "CPU seconds", "Steps", "Tokens")
    columns = [Column(label, number=index > 0) for index, label in enumerate(labels)]
    return Table("What each stage took, over all its attempts.", columns, rows)
