"""A comparison of runs for people: a table for the terminal, and a page like a report's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table as RichTable
from rich.text import Text

from distill_core.report import blocks
from distill_core.report.blocks import Block, Cell, Column, Figures, Section
from distill_core.report.compare import NOT_COMPARABLE
from distill_core.report.page import render_page
from distill_core.report.summary import ALARMS, MARKS, STYLES
from distill_core.report.svg import Interval, Series, interval_chart, line_chart
from distill_core.report.text import (
    MISSING,
    arrow,
    decimals,
    direction,
    fixed,
    in_sentence,
    listing,
    number,
    p_value,
    short,
    unit_and_direction,
    visible,
)
from distill_core.report.verdict import Headline

MOST_CHARTS = 4


def comparison_table(comparison: Mapping[str, Any]) -> RenderableType:
    """Methods as columns, metrics as rows, each cell with its figure, error and verdict.

    Args:
        comparison: what :func:`distill_core.report.compare.compare_runs` returned.
    """
    table = RichTable(title=_caption(comparison), title_justify="left")
    table.add_column("metric")
    for method in comparison["methods"]:
        table.add_column(Text(visible(method["label"])), justify="right")
    for metric in comparison["metrics"]:
        cells = [Text(f"{visible(metric['label'])}{_unit(metric)} {arrow(metric)}".rstrip())]
        for entry in metric["entries"]:
            shown = _shown(entry, metric)
            cell = Text(f"{shown['value']} {shown['error']}".strip())
            verdict = entry.get("verdict")
            if verdict:
                said = MARKS.get(verdict, verdict)
                cell.append(f"\n{said} {shown['difference']}".rstrip(), style=STYLES.get(verdict, "yellow"))
            cells.append(cell)
        table.add_row(*cells)
    parts: list[RenderableType] = [Text(headline_of(comparison).title, style="bold")]
    parts += [
        Text(f"{flag['severity']}: {visible(flag['reason'])}", style=ALARMS.get(flag["severity"], "yellow"))
        for flag in comparison["flags"]
    ]
    refused: dict[str, list[str]] = {}
    for metric in comparison["metrics"]:
        for entry in metric["entries"]:
            if entry.get("verdict") == NOT_COMPARABLE:
                reason = f"{entry['method']}: {NOT_COMPARABLE}, {entry['reason']}"
                refused.setdefault(reason, []).append(in_sentence(metric["label"]))
    reasons = [f"{reason}: {listing(labels)}" for reason, labels in refused.items()]
    return Group(*parts, table, *(Text(visible(reason), style="dim") for reason in reasons))


def comparison_page(comparison: Mapping[str, Any]) -> str:
    """The same as a page: one file with everything inside.

    Args:
        comparison: what :func:`distill_core.report.compare.compare_runs` returned.
    """
    tone = {method["label"]: f"tone-{min(index, 5)}" for index, method in enumerate(comparison["methods"])}
    figures = [_figure(metric, tone) for metric in comparison["metrics"] if metric["primary"]]
    shown = [figure for figure in figures if figure.svg][:MOST_CHARTS]
    body: list[Block] = [_table(comparison)]
    return render_page(
        title="Comparison of " + listing([method["label"] for method in comparison["methods"]]),
        headline=headline_of(comparison),
        flags=comparison["flags"],
        notices=[],
        tone=tone,
        glance=shown[:2],
        sections=[
            Section("results", "Side by side", [*body, *([Figures(shown[2:])] if shown[2:] else [])]),
            *_by_size(comparison),
            Section("methods", "What is compared", [_methods(comparison)]),
        ],
    )


def headline_of(comparison: Mapping[str, Any]) -> Headline:
    """The verdict over the first method, from the primary metrics."""
    reference, others = comparison["methods"][0]["label"], comparison["methods"][1:]
    errors = [flag for flag in comparison["flags"] if flag["severity"] == "error"]
    said, tones = list[str](), set[str]()
    for method in others:
        verdicts = {
            metric["label"]: entry["verdict"]
            for metric in comparison["metrics"]
            if metric["primary"]
            for entry in metric["entries"]
            if entry["method"] == method["label"] and "verdict" in entry
        }
        groups: dict[str, list[str]] = {}
        for label, verdict in verdicts.items():
            groups.setdefault(verdict, []).append(in_sentence(label))
        parts = [f"{verdict} in {listing(labels)}" for verdict, labels in groups.items()]
        said.append(f"{method['label']} against {reference}: {'; '.join(parts) or 'no primary metric in common'}.")
        tones |= groups.keys()
    title = said[0].removesuffix(".") + "." if len(said) == 1 else f"{len(others)} methods against {reference}."
    found = Headline("open", title, said if len(said) > 1 else [])
    if errors:
        count = "One problem" if len(errors) == 1 else f"{len(errors)} problems"
        found.sentences = [*said]
        found.title, found.tone = f"No claim can be made: {count} must be mended first.", "alarm"
    elif tones == {"better"}:
        found.tone = "good"
    elif tones == {"worse"}:
        found.tone = "bad"
    elif tones & {"better", "worse"}:
        found.tone = "mixed"
    found.compared = [_caption(comparison)]
    found.cost = [f"{m['label']}: {short(m['parameters'])} parameters." for m in comparison["methods"]]
    checked = "Data, tokenizers, budgets and seeds of the runs were compared"
    found.trust = [f"{checked}; {len(comparison['flags'])} flags were raised."]
    return found


def _caption(comparison: Mapping[str, Any]) -> str:
    return (
        f"Differences are from {comparison['reference']}, paired by document or by seed; better and worse need two "
        f"standard errors and p <= {1 - comparison['confidence']:.2g} after Holm\u2019s correction over the methods."
    )


def _unit(metric: Mapping[str, Any]) -> str:
    return f" ({metric['unit']})" if metric["unit"] not in ("", "fraction") else ""


def _shown(entry: Mapping[str, Any], metric: Mapping[str, Any]) -> dict[str, str]:
    scale = 100.0 if metric["unit"] == "fraction" else 1.0
    value, error = scale * number(entry["value"]), scale * number(entry["standard_error_of_value"])
    places = decimals(value, error)
    per_cent = "\u202f%" if metric["unit"] == "fraction" and value == value else ""
    found = {
        "value": fixed(value, places) + per_cent,
        "error": "" if error != error else f"\u00b1\u202f{fixed(error, places)}",
        "difference": "",
        "evidence": "",
    }
    if "difference" in entry:
        difference, spread = scale * number(entry["difference"]), scale * number(entry["standard_error"])
        low, high = (scale * number(end) for end in entry["interval"])
        places = decimals(difference, spread)
        found["difference"] = fixed(difference, places, sign=True)
        interval = "" if low != low else f"({fixed(low, places, sign=True)} to {fixed(high, places, sign=True)})"
        parts = [f"{found['difference']} {interval}".strip(), p_value(number(entry["p_adjusted"])), entry["paired_by"]]
        found["evidence"] = ", ".join(part for part in parts if part)
    return found


def _table(comparison: Mapping[str, Any]) -> blocks.Table:
    columns = [Column("Metric"), *(Column(m["label"], number=True, model=m["label"]) for m in comparison["methods"])]
    rows = []
    for metric in comparison["metrics"]:
        row = [Cell(metric["label"], unit_and_direction(metric))]
        for entry in metric["entries"]:
            shown = _shown(entry, metric)
            verdict = entry.get("verdict", "")
            said = f"{verdict}\n{entry.get('reason') or shown['evidence']}" if verdict else shown["error"]
            kind = verdict.replace(" ", "-")
            text = MISSING if number(entry["value"]) != number(entry["value"]) else shown["value"]
            row.append(Cell(text, said, sort=entry["value"], verdict=kind if kind in ("better", "worse") else ""))
        rows.append(row)
    primary = frozenset(index for index, metric in enumerate(comparison["metrics"]) if metric["primary"])
    return blocks.Table(_caption(comparison), columns, rows, primary)


def _methods(comparison: Mapping[str, Any]) -> blocks.Table:
    labels = ("Method", "Model", "Runs", "Seeds", "Parameters", "Documents", "Tokens", "Tokenizer")
    columns = [Column(label, number=label in ("Parameters", "Documents", "Tokens")) for label in labels]
    rows = [
        [
            Cell(method["label"]),
            Cell(method["model"]),
            Cell(", ".join(method["runs"])),
            Cell(", ".join(str(seed) for seed in method["seeds"] if seed is not None) or MISSING),
            Cell(short(method["parameters"]), sort=method["parameters"]),
            Cell(f"{method['documents']:,}", sort=method["documents"]),
            Cell(f"{method['rows']:,}", sort=method["rows"]),
            Cell(method["tokenizer"][:12]),
        ]
        for method in comparison["methods"]
    ]
    return blocks.Table("The runs that were compared.", columns, rows)


def _by_size(comparison: Mapping[str, Any]) -> list[Section]:
    """A chart of each metric over the size of the training set, where the runs have several."""
    figures = []
    for metric in (comparison.get("sizes") or {}).values():
        scale = 100.0 if metric["unit"] == "fraction" else 1.0
        series = []
        for index, (name, points) in enumerate(metric["lines"].items()):
            values = [(float(one["size"]), scale * number(one["value"])) for one in points]
            errors = [scale * number(one["standard_error"]) for one in points]
            series.append(Series(name, f"tone-{min(index, 5)}", values, errors, "marked"))
        unit = "%" if metric["unit"] == "fraction" else metric["unit"]
        note = ", ".join(part for part in (unit, direction(metric), "band: \u00b1 1 standard error") if part)
        svg = line_chart(
            series[::-1],
            title=f"{metric['label']} by size",
            x_label="sequences learned from (logarithmic)",
            x_log=True,
            x_ticks=sorted({x for one in series for x, _ in one.points}),
            end_labels=False,
        )
        legend = [(one.label, one.tone) for one in series]
        figures.append(blocks.Figure(f"{metric['label']} by size", note, svg, legend))
    if not figures:
        return []
    said = (
        "A line for each way of getting training data and for each baseline. Errors are over runs where several have "
        "one size, else by document; sizes are the sequences that the run's own student learns from."
    )
    return [Section("sizes", "By size of the training set", [Figures(figures[:MOST_CHARTS]), blocks.Prose([said])])]


def _figure(metric: Mapping[str, Any], tone: Mapping[str, str]) -> blocks.Figure:
    scale = 100.0 if metric["unit"] == "fraction" else 1.0
    rows = []
    for entry in metric["entries"]:
        low, high = (scale * number(end) for end in entry["interval_of_value"])
        shown = _shown(entry, metric)
        text = f"{shown['value']} {shown['error']}".strip()
        rows.append(Interval(entry["method"], tone[entry["method"]], scale * number(entry["value"]), low, high, text))
    unit = "%" if metric["unit"] == "fraction" else metric["unit"]
    note = ", ".join(part for part in (unit, direction(metric)) if part)
    return blocks.Figure(metric["label"], note, interval_chart(rows, title=f"{metric['label']} by method"))
