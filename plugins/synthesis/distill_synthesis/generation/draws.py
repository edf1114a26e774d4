"""Random choices by counter: the same for a key, whatever was drawn before, in whatever order, on whatever machine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from distill_core.completions import request_seed, uniform

T = TypeVar("T")


def choice(seed: int, key: str, values: Sequence[T], *, step: int = 0) -> T:
    """One of the values, each as likely.

    Args:
        seed: the run's.
        key: what is drawn for, e.g. the id of a row.
        values: at least one.
        step: tells several draws for one key apart.

    >>> choice(0, "row-1", "abc") == choice(0, "row-1", "abc")
    True
    """
    return values[int(uniform(request_seed(seed, key), step) * len(values))]


def sample(seed: int, key: str, values: Sequence[T], count: int) -> list[T]:
    """``count`` different values in random order, or all if there are fewer.

    >>> sorted(sample(0, "row-1", "abc", 5))
    ['a', 'b', 'c']
    """
    left = list(values)
    drawn = []
    for step in range(min(count, len(left))):
        drawn.append(left.pop(int(uniform(request_seed(seed, key), step) * len(left))))
    return drawn
