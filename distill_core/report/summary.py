"""The table that `distill run` and `distill evaluate` print at the end."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from distill_core.report.text import MISSING, arrow, difference, figure, share, short, visible
from distill_core.report.verdict import headline

STYLES = {"better": "green", "worse": "red", "no clear difference": "dim", "undecidable": "dim"}
ALARMS = {"error": "bold red"}
MARKS = {"better": "better", "worse": "worse", "no clear difference": "no clear diff.", "undecidable": "undecidable"}


def summary_table(
    results: Mapping[str, Any], *, report: Path | None = None, content: Mapping[str, Any] | None = None
) -> RenderableType:
    """Models by metrics with intervals, the student's paired differences with verdicts, and the path of the report.

    Args:
        results: what ``evaluate`` returns (``results.json``).
        content: ``report.json``, whose verdict and flags are then shown; default: those of the results alone.
        report: path of the page, printed at the end.
    """
    said: Mapping[str, Any] = content or {"results": results, "flags": results.get("flags", [])}
    found = headline(said)
    parts: list[RenderableType] = [Text(visible(found.title), style="bold")]
    parts += [
        Text(
            f"{flag['severity']}: {visible(str(flag['reason']))}",
            style="red" if flag["severity"] == "error" else "yellow",
        )
        for flag in said.get("flags", [])
    ]
    parts.append(_models(results))
    if results["comparisons"]:
        parts.append(_comparisons(results))
    notes = [*results["warnings"]]
    notes += [
        f"{entry['evaluator']} not measured for {entry['models']}: {entry['reason']}"
        for entry in results["not_measured"]
    ]
    left = len(metric_rows(results)) - len(shown_metrics(results))
    if left:
        notes.append(f"{left} more metrics are in the report and in results.json.")
    if found.caveat:
        notes.append(found.caveat)
    parts += [Text(visible(note), style="dim") for note in notes]
    if report is not None:
        parts.append(Text.assemble("report: ", (str(report), "bold")))
    return Group(*parts)


def metric_rows(results: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Metrics in the order they were measured, each with one entry that gives its label, unit and direction."""
    return {name: metric for model in reversed(results["models"].values()) for name, metric in model["metrics"].items()}


MOST_ROWS = 14
"""Metrics that the terminal shows at most before it picks."""


def shown_metrics(results: Mapping[str, Any]) -> list[str]:
    """All metrics where they are few; else the primary ones and the first of each evaluator."""
    every = metric_rows(results)
    if len(every) <= MOST_ROWS:
        return list(every)
    first: dict[str, str] = {}
    for name, metric in every.items():
        first.setdefault(metric.get("evaluator", ""), name)
    return [name for name, metric in every.items() if metric["primary"] or name in first.values()]


def _models(results: Mapping[str, Any]) -> Table:
    settings = results["settings"]
    interval = f"{share(settings['confidence'])} interval"
    table = Table(
        title=f"held-out: {results['data']['rows']:,} tokens, {results['data']['documents']} documents; {interval}s "
        "clustered by document",
        title_justify="left",
    )
    table.add_column("metric")
    for name in results["models"]:
        table.add_column(Text(visible(name)), justify="right")
    described_by_name = metric_rows(results)
    for name in shown_metrics(results):
        described = described_by_name[name]
        unit = f" ({described['unit']})" if described["unit"] not in ("", "fraction") else ""
        cells = [Text(f"{described['label']}{unit} {arrow(described)}".rstrip())]
        for model in results["models"].values():
            metric = model["metrics"].get(name)
            shown = figure(metric) if metric else None
            cells.append(Text(f"{shown['value']}\n{shown['interval']}" if shown else MISSING))
        table.add_row(*cells)
    table.add_row("parameters", *(short(model["parameters"]) for model in results["models"].values()))
    speed = (results.get("efficiency") or {}).get("models", {})
    for label, key in (("reads (tok/s)", "prefill_tokens_per_s"), ("writes (tok/s)", "decode_tokens_per_s")):
        if speed:
            values = [short(speed[name][key]) if name in speed else MISSING for name in results["models"]]
            table.add_row(label, *values)
    return table


def _comparisons(results: Mapping[str, Any]) -> Table:
    student = results["comparisons"][0]["model"]
    table = Table(title=f"{student} minus the other model, paired by document", title_justify="left")
    table.add_column("metric")
    for heading in ("against", "difference", "interval", "p (Holm)"):
        table.add_column(heading, justify="left" if heading == "against" else "right")
    table.add_column("student is")
    shown_here = shown_metrics(results)
    for comparison in results["comparisons"]:
        if comparison["metric"] not in shown_here:
            continue
        metric = results["models"][student]["metrics"][comparison["metric"]]
        shown = difference(comparison, metric["unit"])
        table.add_row(
            Text(metric["label"]),
            Text(visible(comparison["baseline"])),
            shown["value"],
            shown["interval"],
            shown["p"].removeprefix("p = ").removeprefix("p "),
            Text(MARKS[comparison["verdict"]], style=STYLES[comparison["verdict"]]),
        )
    return table
