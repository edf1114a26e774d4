"""The data and the labels: what came in, what was dropped, what a label costs on disk, what was measured of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from distill_core.report.blocks import Absent, Block, Cell, Column, PairLists, Pairs, Prose, Section, Table
from distill_core.report.sections import records
from distill_core.report.sections.view import View
from distill_core.report.text import MISSING, figure, number, size, unit_and_direction


def section(view: View) -> Section:
    blocks: list[Block] = []
    stores, splits = view.content.get("stores", {}), view.content.get("data", {})
    if stores:
        blocks.append(_stores(stores))
    elif view.of_run:
        blocks.append(Absent("store of teacher signals", "distill capture RUN.yaml"))
    metrics = ((view.results or {}).get("data") or {}).get("metrics") or {}
    if metrics:
        blocks.append(_metrics(metrics))
    if splits:
        blocks.append(PairLists([_funnel(split, summary) for split, summary in splits.items()]))
        notes = [f"{split}: {summary['note']}" for split, summary in splits.items() if summary.get("note")]
        blocks += [Prose(notes)] if notes else []
    elif view.of_run:
        blocks.append(Absent("data", "distill run RUN.yaml"))
    return Section("data", "Data and labels", [*blocks, *records.blocks(view)])


def _stores(stores: Mapping[str, Any]) -> Table:
    rows = []
    for name, store in stores.items():
        meta = store.get("meta", {})
        parts = sorted(store.get("split_per_row", {}).items(), key=lambda item: -item[1])
        rows.append(
            [
                Cell(name, "" if store["complete"] else "unfinished"),
                Cell(f"{meta.get('method', MISSING)}, k = {meta.get('k', MISSING)}"),
                Cell(f"{store['n_rows']:,}", sort=store["n_rows"]),
                Cell(f"{store['bytes_per_row']:.1f}", sort=store["bytes_per_row"]),
                Cell(size(store["n_bytes"]), sort=store["n_bytes"]),
                Cell(", ".join(f"{part} {n_bytes:.1f}" for part, n_bytes in parts)),
            ]
        )
    number_of = (False, False, True, True, True, False)
    labels = ("Store", "Method", "Labels", "Bytes per label", "Size", "Of it, bytes per label")
    columns = [Column(label, number=is_number) for label, is_number in zip(labels, number_of, strict=True)]
    return Table("Stores of teacher signals: what a label costs on disk, everything in it.", columns, rows)


def _metrics(metrics: Mapping[str, Any]) -> Table:
    rows = []
    for metric in metrics.values():
        shown = figure(metric)
        value = Cell(shown["value"], shown["interval"], sort=number(metric["value"]))
        rows.append(
            [Cell(metric["label"], unit_and_direction(metric)), value, Cell(f"{metric['n']:,}", sort=metric["n"])]
        )
    columns = [Column("Of the data"), Column("Figure", number=True), Column("n", number=True)]
    return Table("What was measured of the data themselves.", columns, rows)


def _funnel(split: str, summary: Mapping[str, Any]) -> Pairs:
    documents = summary.get("documents", {})
    totals = {"documents": len(documents) if isinstance(documents, dict) else documents}
    totals |= {key: summary[key] for key in ("sequences", "tokens", "predicted_tokens") if key in summary}
    items = [(key.replace("_", " "), f"{value:,}") for key, value in totals.items()]
    steps = [("records read", f"{summary['records_in']:,}")] if "records_in" in summary else []
    steps += [("sequences to choose from", f"{summary['pool']:,}")] if "pool" in summary else []
    steps += [
        (f"dropped by {entry['filter']}", _dropped(entry["dropped"], entry["reasons"]))
        for entry in (() if "funnel" in summary else summary.get("filters", ()))  # else they have a table of their own
    ]
    steps += [(f"left out: {reason}", f"{count:,}") for reason, count in summary.get("dropped", {}).items()]
    return Pairs(split, [*items, *steps], total=len(items))


def _dropped(count: int, reasons: Mapping[str, int]) -> str:
    why = ", ".join(f"{reason}: {n:,}" for reason, n in reasons.items())
    return f"{count:,}" + (f" ({why})" if why else "")
