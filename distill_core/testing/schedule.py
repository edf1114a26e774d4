"""Conformance of schedules: a number for every step, depending on the step alone."""

from __future__ import annotations

import math

from distill_core.testing.subject import NotApplicable, Subject

RUNS = (1, 2, 7, 100)


def gives_a_finite_number_at_every_step(subject: Subject) -> None:
    """Runs of 1, 2, 7 and 100 steps, both ends included."""
    schedule = subject.build()
    for total_steps in RUNS:
        for step in range(total_steps + 1):
            value = schedule(step, total_steps)
            assert isinstance(value, int | float), f"returned {type(value).__name__} at {step}/{total_steps}"
            assert math.isfinite(value), f"returned {value} at step {step} of {total_steps}"


def depends_on_the_step_alone(subject: Subject) -> None:
    """Asked backwards and twice, as after a resume, it says the same."""
    first, second = subject.build(), subject.build()
    forwards = [first(step, 20) for step in range(21)]
    backwards = [second(step, 20) for step in reversed(range(21))][::-1]
    assert forwards == backwards == [first(step, 20) for step in range(21)]


def takes_the_values_it_lists(subject: Subject) -> None:
    values = getattr(subject.options(), "values", None)
    if not values:
        raise NotApplicable("lists no values")
    schedule = subject.build()
    taken = {schedule(step, 50) for step in range(51)}
    assert taken <= set(values), f"takes {sorted(taken - set(values))}, which is not among its values {list(values)}"


CHECKS = (gives_a_finite_number_at_every_step, depends_on_the_step_alone, takes_the_values_it_lists)
