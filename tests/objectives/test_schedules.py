"""Schedules at their ends, in the middle, with warm-up, and rounded to listed values."""

from __future__ import annotations

import math
from typing import Any

import pytest

from distill_core.errors import ConfigError, TrainingError
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


def test_exponential_has_equal_factors() -> None:
    found = values("exponential", 5, start=16.0, end=1.0)
    assert found == pytest.approx([16, 8, 4, 2, 1])
    assert values("exponential", 3, start=-1.0, end=-4.0) == pytest.approx([-1, -2, -4])
    assert values("exponential", 3, start=2.0, end=2.0) == [2, 2, 2]


def test_step_by_shares_and_by_steps() -> None:
    assert values("step", 4, values=[8, 4, 2], boundaries=[0.25, 0.5]) == [8, 4, 2, 2]
    assert values("step", 5, values=[8, 4], boundaries=[3], unit="steps") == [8, 8, 8, 4, 4]
    assert values("step", 3, values=[1.5], boundaries=[]) == [1.5, 1.5, 1.5]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"values": [1.0, 2.0], "boundaries": []}, "2 values have 1 boundaries between them, received 0"),
        ({"values": [1.0, 2.0, 3.0], "boundaries": [0.5, 0.5]}, "boundaries must rise"),
        ({"values": [1.0, 2.0], "boundaries": [10]}, "as shares of the run, boundaries lie between 0 and 1"),
        ({"values": [1.0, 2.0], "boundaries": [0.5], "unit": "steps"}, "as steps, boundaries are whole numbers from 1"),
        ({"values": [1.0, 2.0], "boundaries": [0.5], "length_steps": 3}, "length_steps belongs to unit: steps"),
        ({"values": [1.0, 2.0], "boundaries": [9], "unit": "steps", "length_steps": 9}, "lies behind length_steps 9"),
    ],
)
def test_a_step_schedule_that_does_not_fit_together(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        schedule("step", **options)


def test_a_geometric_way_does_not_cross_zero() -> None:
    with pytest.raises(ConfigError, match="never reaches or crosses 0; use linear or cosine"):
        schedule("exponential", start=1.0, end=0.0)


def test_a_schedule_that_ends_early_or_is_never_reached() -> None:
    written = schedule("step", values=[64, 16], boundaries=[50], unit="steps", length_steps=100)
    assert written(60, 100) == 16
    with pytest.raises(TrainingError, match=r"ends early: it was written for 100 steps .*, the run has 120"):
        written(0, 120)
    with pytest.raises(TrainingError, match=r"at step 50, which a run of 40 steps never reaches"):
        written(0, 40)
