"""One value after another, changing at given places."""

from __future__ import annotations

from bisect import bisect_right

from distill_core.errors import TrainingError
from distill_objectives.options import StepOptions


class Step:
    """``values[i]`` from ``boundaries[i - 1]`` on, piecewise constant.

    Raises:
        TrainingError: at the first call, if the run is too short for a value to be reached or, with ``length_steps``,
            longer than the schedule.

    >>> halves = Step(StepOptions(values=[4, 1], boundaries=[0.5]))
    >>> [halves(step, total_steps=4) for step in range(4)]
    [4.0, 4.0, 1.0, 1.0]
    """

    def __init__(self, options: StepOptions) -> None:
        self.options = options

    def __call__(self, step: int, total_steps: int) -> float:
        options = self.options
        if options.unit == "share":
            return options.values[bisect_right(options.boundaries, step / total_steps)]
        if options.boundaries and options.boundaries[-1] >= total_steps:
            raise TrainingError(
                f"a step schedule changes to {options.values[-1]} at step {options.boundaries[-1]:.0f}, which a run of "
                f"{total_steps} steps never reaches: lower its boundaries, or give them as shares (unit: share)"
            )
        if options.length_steps is not None and total_steps > options.length_steps:
            raise TrainingError(
                f"a step schedule ends early: it was written for {options.length_steps} steps (length_steps), the run "
                f"has {total_steps}: extend its boundaries and values, or give them as shares (unit: share)"
            )
        return options.values[bisect_right(options.boundaries, step)]
