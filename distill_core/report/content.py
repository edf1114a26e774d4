"""``report.json``: everything the page says, as plain data. The page is made from it alone.

Its form is published as a JSON schema, ``distill_core/report/report.schema.json`` (:func:`schema`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib import resources
from typing import Any

from distill_core.report.collect import CollectedRun
from distill_core.report.flags import run_checks
from distill_core.report.funnel import funnel_tables
from distill_core.report.made_data import selection_map, synthesis_map, synthetic_samples
from distill_core.report.overlays import overlays
from distill_core.report.synthesis import synthesis_of
from distill_core.report.verdict import headline

SCHEMA = 2
"""Version of the form of ``report.json``."""


def content_of(run: CollectedRun, sections: Sequence[tuple[str, str]] = ()) -> dict[str, Any]:
    """The content of a report: what was recorded, the checks, and the verdict with its reasons.

    Args:
        run: what a run directory holds.
        sections: further sections by plugins, (title, text).
    """
    content: dict[str, Any] = {
        "schema": SCHEMA,
        "name": run.name,
        "kind": "run" if run.config or run.trainings or run.stores else "models",
        "config": run.config,
        "config_text": run.config_text,
        "results": run.results,
        "data": run.data,
        "overlap": run.overlap,
        "trainings": {name: run.trainings[name] for name in run.trainings_in_order},
        "overlays": overlays(run.manifests, [n for n in run.trainings_in_order if n != "student"]),
        "synthesis": synthesis_of(run),
        "synthetic_samples": synthetic_samples(run.directory),
        "synthesis_map": synthesis_map(run.directory, run.problems),
        "selection_map": selection_map(run.directory, run.manifests, run.config),
        "stores": run.stores,
        "manifests": run.manifests,
        "active": run.active,
        "siblings": run.siblings,
        "replaced": run.replaced,
        "sections": [{"title": title, "text": text} for title, text in sections],
        "problems": [*run.problems, *funnel_tables(run.manifests, run.data)[1]],
    }
    checks, flags = run_checks(content)
    content["checks"] = [asdict(check) for check in checks]
    content["flags"] = flags
    content["headline"] = asdict(headline(content))
    return content


def as_json(content: Mapping[str, Any]) -> str:
    """The text of ``report.json``: ASCII, keys in their order, no NaN."""
    return json.dumps(content, ensure_ascii=True, indent=1, default=str, allow_nan=False)


def schema() -> dict[str, Any]:
    """The JSON schema (draft 2020-12) of ``report.json``.

    >>> schema()["properties"]["schema"]
    {'const': 2}
    """
    text = (resources.files("distill_core.report") / "report.schema.json").read_text(encoding="utf-8")
    return dict(json.loads(text))
