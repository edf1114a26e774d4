"""From start to end along a straight line."""

from __future__ import annotations

from distill_objectives.schedules.ramp import Ramp


class Linear(Ramp):
    """``start + (end - start) x``, x from 0 after the warm-up to 1 at the last step.

    >>> from distill_objectives.options import RampOptions
    >>> [Linear(RampOptions(start=4, end=1))(step, total_steps=4) for step in range(4)]
    [4.0, 3.0, 2.0, 1.0]
    """

    def shape(self, progress: float) -> float:
        return progress
