"""From start to end by equal factors."""

from __future__ import annotations

from distill_objectives.schedules.ramp import Ramp


class Exponential(Ramp):
    """``start (end / start)^x``: the same factor at every step; x runs from 0 after the warm-up to 1 at the last step.

    >>> from distill_objectives.options import ExponentialOptions
    >>> [round(Exponential(ExponentialOptions(start=8, end=1))(step, total_steps=4), 3) for step in range(4)]
    [8.0, 4.0, 2.0, 1.0]
    """

    def shape(self, progress: float) -> float:
        start, end = self.options.start, self.options.end
        return progress if start == end else ((end / start) ** progress - 1) / (end / start - 1)
