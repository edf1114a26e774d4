"""For the record: environment, run file, manifests."""

from __future__ import annotations

import json
from typing import Any

from distill_core.report.blocks import Absent, Block, Detail, PairLists, Pairs, Section
from distill_core.report.sections.view import View

LONGEST_JSON = 20_000
"""Characters of one manifest shown on the page; the file itself has the rest."""

MOST_CHARACTERS = 600_000
"""Of all manifests together, so that the page stays small."""


def section(view: View) -> Section:
    environment = _environment(view)
    blocks: list[Block] = [PairLists([Pairs("", list(environment.items()))])] if environment else []
    text = view.content.get("config_text", "")
    if text:
        blocks.append(Detail("Run file, resolved", "", text))
    elif view.of_run:
        blocks.append(Absent("run file in this directory", "distill run RUN.yaml"))
    manifests = view.content.get("manifests", {})
    limit = min(LONGEST_JSON, MOST_CHARACTERS // max(1, len(manifests)))
    for name, manifest in manifests.items():
        seconds = manifest.get("seconds")
        notes = [str(manifest.get("status", "")), f"{seconds:,.0f} s" if isinstance(seconds, int | float) else ""]
        notes.append(str(manifest.get("fingerprint", ""))[:12])
        shown = json.dumps(manifest, indent=1, ensure_ascii=False)
        cut = shown if len(shown) <= limit else f"{shown[:limit]} \u2026 ({len(shown) - limit:,} more characters)"
        blocks.append(Detail(f"Manifest: {name}", ", ".join(note for note in notes if note), cut))
    return Section("record", "For the record", blocks)


def _environment(view: View) -> dict[str, str]:
    """Versions and machine as the latest stage recorded them, flattened."""
    found: dict[str, Any] = {}
    for manifest in view.content.get("manifests", {}).values():
        environment = dict(manifest.get("environment") or {})
        found |= {**{k: v for k, v in environment.items() if k != "versions"}, **environment.get("versions", {})}
    if view.results is not None:
        settings = view.results["settings"]
        found["evaluated on"] = f"{settings['device']}, {settings['threads']} threads"
        found["evaluated in"] = ", ".join(sorted(set(settings["dtype"].values())))
    return {str(key): str(value) for key, value in found.items() if value not in ("", None)}
