"""Puts the page together: one HTML file with its style, script and charts inside; the network is never asked."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from distill_core.report import charts
from distill_core.report.sections import View, record, sections_of
from distill_core.report.text import visible

LARGEST_BYTES = 5_000_000
"""A page is smaller than this; tests hold it to that."""


def render(content: Mapping[str, Any]) -> str:
    """The page as text, from the content of ``report.json`` and nothing else.

    Args:
        content: what :func:`distill_core.report.content.content_of` returned, or ``report.json`` read back.
    """
    environment = Environment(
        loader=PackageLoader("distill_core.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(visible=visible)
    view = View(content)
    sections, missing = sections_of(view)
    results = view.results
    glance = charts.metric_figures(results, view.tone, charts.primary_metrics(results)[:2]) if results else []
    style, script = _own("style.css"), _own("script.js")
    return environment.get_template("page.html").render(
        title=content["name"],
        style=Markup(style),  # our own files
        script=Markup(script),
        style_hash=_digest(style),
        script_hash=_digest(script),
        headline=content["headline"],
        flags=content["flags"],
        notices=_notices(content),
        tone=view.tone,
        glance=glance,
        sections=sections,
        plugin_sections=content["sections"],
        record=record.section(view),
        missing=missing,
    )


def _notices(content: Mapping[str, Any]) -> list[str]:
    results = content.get("results") or {}
    found = list(results.get("warnings", []))
    found += [
        f"{entry['evaluator']} was not measured for {entry['models']}: {entry['reason']}"
        for entry in results.get("not_measured", [])
    ]
    return found + list(content["problems"])


def _own(name: str) -> str:
    return (resources.files("distill_core.report") / "templates" / name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    """What the content security policy calls a hash source."""
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
