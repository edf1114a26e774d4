"""Puts the page together: one HTML file with its style, script and charts inside; the network is never asked."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from distill_core.report import charts
from distill_core.report.blocks import Figure, Section
from distill_core.report.sections import Missing, View, record, sections_of
from distill_core.report.text import visible

MOST_FLAGS = 5
"""Shown above the headline; all errors are."""

LARGEST_BYTES = 5_000_000
"""A page is smaller than this; tests hold it to that."""


def render(content: Mapping[str, Any]) -> str:
    """The page as text, from the content of ``report.json`` and nothing else.

    Args:
        content: what :func:`distill_core.report.content.content_of` returned, or ``report.json`` read back.
    """
    view = View(content)
    sections, missing = sections_of(view)
    results = view.results
    glance = charts.metric_figures(results, view.tone, charts.primary_metrics(results)[:2]) if results else []
    errors = sum(flag["severity"] == "error" for flag in content["flags"])  # they come first
    shown = content["flags"][: max(errors, MOST_FLAGS)]
    return render_page(
        title=content["name"],
        headline=content["headline"],
        flags=shown,
        more_flags=len(content["flags"]) - len(shown),
        notices=_notices(content),
        tone=view.tone,
        glance=glance,
        sections=sections,
        plugin_sections=content["sections"],
        record=record.section(view),
        missing=missing,
    )


def render_page(
    *,
    title: str,
    headline: Any,
    flags: Sequence[Mapping[str, Any]],
    notices: Sequence[str],
    tone: Mapping[str, str],
    glance: Sequence[Figure],
    more_flags: int = 0,
    sections: Sequence[Section],
    plugin_sections: Sequence[Mapping[str, str]] = (),
    record: Section | None = None,
    missing: Sequence[Missing] = (),
) -> str:
    """A page of sections, with style and script inside.

    Args:
        title: of the page.
        headline: a ``Headline``, or the same as a mapping.
        flags: shown in red above everything.
        more_flags: how many more there are in the section on integrity.
        notices: sentences above the sections.
        tone: colour class per model.
        glance: charts beside the headline.
        sections: in their order.
        plugin_sections: title and text each.
        record: last section.
        missing: what could not be shown, and why.
    """
    environment = Environment(
        loader=PackageLoader("distill_core.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(visible=visible)
    style, script = _own("style.css"), _own("script.js")
    return environment.get_template("page.html").render(
        title=title,
        style=Markup(style),  # our own files
        script=Markup(script),
        style_hash=_digest(style),
        script_hash=_digest(script),
        headline=headline,
        flags=flags,
        more_flags=more_flags,
        notices=notices,
        tone=tone,
        glance=glance,
        sections=sections,
        plugin_sections=plugin_sections,
        record=record,
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
