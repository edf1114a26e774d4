"""The section "Data" of the page: where records went, step by step, why, and a few of those that were dropped.

Reads what the data stages and a synthesizer keep (``distill_core.funnel``): ``funnel`` of ``data.json``, which has
examples, and of the notes of a stage's manifest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

SHARE_DIGITS = 1


@dataclass(frozen=True)
class Example:
    """A record that was dropped; ``text`` is None where a filter keeps it private."""

    reason: str
    document: str
    detail: str
    text: str | None


@dataclass(frozen=True)
class Step:
    """A row of the table; figures as text."""

    name: str
    entered: str
    left: str
    dropped: str
    share: str
    made: str
    reasons: Sequence[tuple[str, str]]
    examples: Sequence[Example] = ()


@dataclass(frozen=True)
class FunnelTable:
    """A table for a place where records were filtered."""

    title: str
    steps: Sequence[Step]
    sentence: str


def funnel_tables(manifests: Mapping[str, Any], data: Mapping[str, Any]) -> tuple[list[FunnelTable], list[str]]:
    """A table per place where records were filtered, the synthesizer first, and what could not be shown.

    Args:
        manifests: of the stages, by their directory (``CollectedRun.manifests``, or of ``report.json``).
        data: summaries of the splits (``CollectedRun.data``).

    >>> step = {"step": "length", "in": 3, "out": 2, "reasons": {"too short": 1}}
    >>> tables, problems = funnel_tables({}, {"train": {"funnel": [step]}})
    >>> tables[0].title, tables[0].sentence, problems
    ('data/train', '3 records in, 2 out (66.7%)', [])
    """
    places: list[tuple[str, Any]] = []
    for stage, manifest in manifests.items():
        notes = manifest.get("notes")
        if not stage.startswith("data/") and isinstance(notes, Mapping) and "funnel" in notes:
            places.append((stage, notes["funnel"]))
    places += [(f"data/{split}", summary["funnel"]) for split, summary in data.items() if "funnel" in summary]
    tables, problems = [], []
    for place, funnel in places:
        try:
            tables.append(_table(place, funnel))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            problems.append(
                f"{place}: its funnel cannot be shown ({type(error).__name__}: {error}); expected a list of "
                "{step, in, out, reasons}"
            )
    return tables, problems


def _table(place: str, funnel: Any) -> FunnelTable:
    steps = [_step(entry) for entry in funnel]
    first, last = (int(funnel[0]["in"]), int(funnel[-1]["out"])) if funnel else (0, 0)
    made = any(int(entry.get("made", 0)) for entry in funnel)
    share = f" ({last / first:.{SHARE_DIGITS}%})" if first and not made else ""
    return FunnelTable(place, steps, f"{first:,} records in, {last:,} out{share}")


def _step(entry: Mapping[str, Any]) -> Step:
    entered, reasons = int(entry["in"]), {str(kind): int(count) for kind, count in entry["reasons"].items()}
    dropped = sum(reasons.values())
    examples = [
        Example(
            str(kind),
            str(one.get("document", "")),
            str(one.get("detail", "")),
            str(one["text"]) if "text" in one else None,
        )
        for kind, several in (entry.get("examples") or {}).items()
        for one in several
    ]
    made = int(entry.get("made", 0))
    return Step(
        name=str(entry["step"]),
        entered=f"{entered:,}",
        left=f"{int(entry['out']):,}",
        dropped=f"{dropped:,}",
        share=f"{dropped / entered:.{SHARE_DIGITS}%}" if entered and dropped else "",
        made=f"{made:,} more made" if made else "",
        reasons=[(kind, f"{count:,}") for kind, count in reasons.items()],
        examples=examples,
    )
