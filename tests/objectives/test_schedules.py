"""Schedules at their ends, in the middle, with warm-up, and rounded to listed values."""

from __future__ import annotations

import math
from typing import Any

import pytest

from distill_core.errors import ConfigError
from distill_core.registry import get_registry


def schedule(use: str, **options: Any) -> Any:
    return get_registry().build("schedule", {"use": use, **options})


def values(use: str, steps: int, **options: Any) -> list[float]:
    one = schedule(use, **options)
    return [one(step, steps) for step in range(steps)]


def test_constant() -> None:
    assert values("constant", 3, value=1.5) == [1.5, 1.5, 1.5]


def test_linear() -> None:
    assert values("linear", 5, start=0.0, end=1.0) == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert values("linear", 5, start=3, end=1, warmup_steps=2) == [3, 3, 3, 2, 1]


def test_cosine() -> None:
    expected = [2 + 2 * (1 + math.cos(math.pi * x)) / 2 for x in (0, 0.25, 0.5, 0.75, 1)]
    assert values("cosine", 5, start=4, end=2) == pytest.approx(expected)
    assert values("cosine", 5, start=4, end=2)[-1] == 2


@pytest.mark.parametrize("use", ["linear", "cosine"])
def test_ends_hold_for_short_and_overrun_trainings(use: str) -> None:
    one = schedule(use, start=4, end=2, warmup_steps=3)
    assert one(0, 1) == 4
    assert one(2, 3) == 4  # all of it is warm-up
    assert one(9, 10) == 2
    assert one(50, 10) == 2


def test_values_round_to_the_nearest() -> None:
    found = values("linear", 9, start=4.0, end=1.0, values=[1.0, 2.0, 4.0])
    assert found == [4, 4, 4, 2, 2, 2, 2, 1, 1]


@pytest.mark.parametrize(
    ("use", "options", "message"),
    [
        ("constant", {}, "value"),
        ("constant", {"value": 2, "values": [1]}, "not among"),
        ("linear", {"start": 0}, "end"),
        ("cosine", {"start": 0, "end": 1, "warmup_steps": -1}, "warmup_steps"),
        ("cosine", {"start": 0, "end": 1, "values": []}, "values"),
        ("linear", {"start": 0, "end": 1, "warmup": 3}, "warmup"),
    ],
)
def test_wrong_options_are_named(use: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        schedule(use, **options)
