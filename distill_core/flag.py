"""A reason not to trust a figure: what evaluators, the engine and the report raise. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class Flag:
    """A reason not to trust a figure or a comparison, for ``results.json`` and the report.

    Args:
        flag: which one, e.g. ``test-in-training``; a name for files.
        severity: ``error`` where a claim must not be made, ``warning`` where it needs care.
        reason: a sentence for people: what was found, and why it matters.
        evidence: the figures behind it; JSON-serialisable.
    """

    flag: str
    severity: Literal["error", "warning"]
    reason: str
    evidence: Mapping[str, Any] = field(default_factory=dict)
