"""How far along a ramp a step is, and rounding to listed values: shared by ``linear`` and ``cosine``."""

from __future__ import annotations

from distill_objectives.options import RampOptions


class Ramp:
    """From ``start`` (first step, and the ``warmup_steps`` after it) to ``end`` (last step)."""

    def __init__(self, options: RampOptions) -> None:
        self.options = options

    def shape(self, progress: float) -> float:
        """Share of the way covered at ``progress`` in [0, 1]; 0 at 0 and 1 at 1."""
        raise NotImplementedError

    def __call__(self, step: int, total_steps: int) -> float:
        options = self.options
        length_steps = max(1, total_steps - 1 - options.warmup_steps)
        progress = min(1.0, max(0.0, (step - options.warmup_steps) / length_steps))
        value = options.start + (options.end - options.start) * self.shape(progress)
        if options.values is None:
            return value
        return min(options.values, key=lambda listed: (abs(listed - value), listed))
