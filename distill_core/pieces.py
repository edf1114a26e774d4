"""What becomes of a record: sequences of ids, and what is predicted in them. No torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Piece:
    """One sequence: its ids, which of them are to be predicted (None: all), and their weights (None: 1).

    Of a task: ``classes``, the class at each id, -100 where there is none.
    """

    input_ids: list[int]
    predict: list[bool] | None = None
    weights: list[float] | None = None
    classes: list[int] | None = None


@dataclass(frozen=True)
class CutRecord:
    """What became of a record.

    Args:
        pieces: its sequences, in order.
        dropped: reasons of what was left out, e.g. ``short remainder``.
    """

    pieces: list[Piece]
    dropped: list[str]
