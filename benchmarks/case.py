"""What a benchmark compares: ways to compute something, and ways that cannot run here, with the reason."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

Run = Callable[[], Any]


@dataclass(frozen=True)
class Case:
    """One way; `build()` makes the inputs that it alone needs and returns the function to time.

    The function returns what it computed, the value first, then its gradients.
    """

    build: Callable[[], Run]
    computes: str
    same: bool = True
    """Whether it computes exactly what the baseline computes."""
    compiled: bool = False
    """Whether its first call compiles for these very sizes."""


@dataclass(frozen=True)
class Absent:
    """A rival that cannot run here; the table names it with the reason."""

    reason: str


Cases = dict[str, Case | Absent]


def flat(result: Any) -> list[Tensor]:
    """The tensors of a result, in order."""
    if isinstance(result, Tensor):
        return [result]
    return [tensor for part in result for tensor in flat(part)]
