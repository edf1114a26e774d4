"""Puts the page together: one HTML file with its style and its charts inside, no script, no network."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from distill_core.report import charts
from distill_core.report.collect import CollectedRun
from distill_core.report.fidelity import fidelity
from distill_core.report.summary import metric_rows
from distill_core.report.text import MISSING, difference, figure, share, short, size, visible
from distill_core.report.verdict import Headline

LONGEST_JSON = 20_000
"""Characters of a manifest shown on the page; the file itself has the rest."""


def render(run: CollectedRun, found: Headline, sections: Sequence[tuple[str, str]]) -> str:
    """The page as text.

    Args:
        run: what the run directory holds.
        found: the headline.
        sections: further sections by plugins, (title, text).
    """
    environment = Environment(
        loader=PackageLoader("distill_core.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(visible=visible, short=short, size=size, share=share)
    style = (resources.files("distill_core.report") / "templates" / "style.css").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    results = run.results
    tone = charts.tones(results, run.trainings_in_order)
    context = {
        "title": run.name,
        "style": Markup(style),  # our own file
        "style_hash": digest,
        "headline": found,
        "run": run,
        "results": results,
        "tone": tone,
        "table": metric_table(results) if results else [],
        "facts": facts(results) if results else [],
        "metric_figures": charts.metric_figures(results, tone) if results else [],
        "other_figures": _other_figures(run, tone),
        "fidelity": fidelity(results, tone),
        "learning_figures": charts.learning_figures(run, tone),
        "generations": (results.get("generations") or {}).get("samples", []) if results else [],
        "stores": [_store(name, store) for name, store in run.stores.items()],
        "funnels": [_funnel(split, summary) for split, summary in run.data.items()],
        "environment": _environment(run),
        "stages": [_stage(name, manifest) for name, manifest in run.manifests.items()],
        "sections": sections,
        "missing": MISSING,
    }
    return environment.get_template("page.html").render(context)


def _other_figures(run: CollectedRun, tone: Mapping[str, str]) -> list[charts.Figure]:
    if run.results is None:
        return []
    return charts.position_figures(run.results, tone) + charts.reliability_figures(run.results, tone)


def metric_table(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Rows of the side by side table: per metric the figure of each model and the student's paired differences."""
    rows, metrics = [], metric_rows(results)
    for name, described in metrics.items():
        source = described["derived_from"] or name
        cells = {}
        for model, entry in results["models"].items():
            metric = entry["metrics"].get(name)
            cells[model] = figure(metric) if metric else None
        verdicts = [
            {
                "baseline": comparison["baseline"],
                "verdict": comparison["verdict"],
                "shown": None if described["derived_from"] else difference(comparison, described["unit"]),
                "source": metrics[source]["label"].lower() if described["derived_from"] else "",
            }
            for comparison in results["comparisons"]
            if comparison["metric"] == source and results["models"][comparison["baseline"]]["role"] != "teacher"
        ]
        rows.append(
            {
                "label": described["label"],
                "unit": "" if described["unit"] == "fraction" else described["unit"],
                "direction": "higher is better" if described["higher_is_better"] else "lower is better",
                "primary": described["primary"],
                "cells": cells,
                "verdicts": verdicts,
            }
        )
    return rows


def facts(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Sizes and speeds, a row each, with every model's figure."""
    models = results["models"]
    speed = (results.get("efficiency") or {}).get("models", {})
    rows = [
        {"label": "Parameters", "note": "", "cells": {n: short(m["parameters"]) for n, m in models.items()}},
        {
            "label": "of them embeddings",
            "note": "",
            "cells": {n: short(m["embedding_parameters"]) for n, m in models.items()},
        },
        {"label": "Layers", "note": "", "cells": {n: str(m["layers"] or MISSING) for n, m in models.items()}},
        {
            "label": "Weights on disk",
            "note": "",
            "cells": {n: size(m["bytes_on_disk"]) if m["bytes_on_disk"] else MISSING for n, m in models.items()},
        },
    ]
    for label, key in (("Reads", "prefill"), ("Writes", "decode")):
        if speed:
            cells = {name: _speed(speed[name], key) if name in speed else MISSING for name in models}
            rows.append({"label": label, "note": "tokens/s, slowest to fastest round", "cells": cells})
    return rows


def _speed(speed: Mapping[str, Any], key: str) -> str:
    low, high = speed[f"{key}_range"]
    return f"{short(speed[f'{key}_tokens_per_s'])} ({short(low)} to {short(high)})"


def _store(name: str, store: Mapping[str, Any]) -> dict[str, Any]:
    meta = store.get("meta", {})
    parts = sorted(store.get("split_per_row", {}).items(), key=lambda item: -item[1])
    return {
        "name": name,
        "method": f"{meta.get('method', MISSING)}, k = {meta.get('k', MISSING)}",
        "labels": f"{store['n_rows']:,}",
        "bytes_per_label": f"{store['bytes_per_row']:.1f}",
        "split": ", ".join(f"{part} {n_bytes:.1f}" for part, n_bytes in parts),
        "size": size(store["n_bytes"]),
        "complete": store["complete"],
    }


def _funnel(split: str, summary: Mapping[str, Any]) -> dict[str, Any]:
    steps = [("records read", f"{summary['records_in']:,}")] if "records_in" in summary else []
    steps += [("sequences to choose from", f"{summary['pool']:,}")] if "pool" in summary else []
    steps += [
        (f"dropped by {entry['filter']}", _dropped(entry["dropped"], entry["reasons"]))
        for entry in summary.get("filters", [])
    ]
    steps += [(f"left out: {reason}", f"{count:,}") for reason, count in summary.get("dropped", {}).items()]
    documents = summary.get("documents", {})
    totals = {"documents": len(documents) if isinstance(documents, dict) else documents}
    totals |= {key: summary[key] for key in ("sequences", "tokens", "predicted_tokens") if key in summary}
    shown = [(k.replace("_", " "), f"{v:,}") for k, v in totals.items()]
    return {"split": split, "steps": steps, "totals": shown, "note": summary.get("note", "")}


def _dropped(count: int, reasons: Mapping[str, int]) -> str:
    why = ", ".join(f"{reason}: {n:,}" for reason, n in reasons.items())
    return f"{count:,}" + (f" ({why})" if why else "")


def _environment(run: CollectedRun) -> dict[str, Any]:
    """Versions and machine as the latest stage recorded them, flattened."""
    found: dict[str, Any] = {}
    for manifest in run.manifests.values():
        for key, value in (manifest.get("environment") or {}).items():
            found.update({str(k): v for k, v in value.items()} if isinstance(value, dict) else {key: value})
    if run.results:
        found |= {"device": run.results["settings"]["device"], "threads": run.results["settings"]["threads"]}
        dtypes = run.results["settings"]["dtype"].values()
        found["evaluated in"] = ", ".join(sorted(set(dtypes)))
    return {key: value for key, value in found.items() if value not in ("", None)}


def _stage(name: str, manifest: Mapping[str, Any]) -> dict[str, Any]:
    seconds = manifest.get("seconds")
    return {
        "name": name,
        "status": str(manifest.get("status", "")),
        "seconds": f"{seconds:,.0f} s" if isinstance(seconds, (int, float)) else "",
        "fingerprint": str(manifest.get("fingerprint", ""))[:12],
        "json": visible(json.dumps(manifest, indent=1, ensure_ascii=False), limit=LONGEST_JSON),
    }
