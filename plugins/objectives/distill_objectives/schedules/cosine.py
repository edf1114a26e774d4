"""From start to end along half a cosine."""

from __future__ import annotations

import math

from distill_objectives.schedules.ramp import Ramp


class Cosine(Ramp):
    """``start + (end - start) (1 - cos(pi x)) / 2``: slow at both ends; x runs from 0 to 1 after the warm-up.

    >>> from distill_objectives.options import RampOptions
    >>> [round(Cosine(RampOptions(start=4, end=1))(step, total_steps=4), 3) for step in range(4)]
    [4.0, 3.25, 1.75, 1.0]
    """

    def shape(self, progress: float) -> float:
        return 0.5 * (1 - math.cos(math.pi * progress))
