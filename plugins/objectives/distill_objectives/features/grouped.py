"""Objectives that compare rows with each other: those of a micro-batch, or of each sequence."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

from distill_core.types import TokenBatch
from distill_objectives.features.layers import HiddenObjective
from distill_objectives.features.positions import Group, Positions, grouped_count, groups


class GroupedObjective(HiddenObjective):
    """Compares groups of rows; each counts as its rows, and one of fewer than ``least_rows`` not at all.

    Args:
        options: has ``within``, besides what :class:`HiddenObjective` reads.
    """

    least_rows: ClassVar[int]

    def __init__(self, options: Any) -> None:
        super().__init__(options)
        self.properties["additive"] = options.within == "sequence"

    def count(self, batch: TokenBatch) -> float:
        """Positions in groups that are large enough."""
        at = Positions.of(batch, self.options.positions)
        return grouped_count(at, batch, self.options.within, least=self.least_rows)

    def groups(self, at: Positions, batch: TokenBatch, *, max_rows: int | None = None) -> Iterator[Group]:
        """The groups that are large enough; of each, at most ``max_rows`` rows."""
        return groups(at, batch, self.options.within, least=self.least_rows, max_rows=max_rows)
