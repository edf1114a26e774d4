"""Times at the end of every step, and the largest resident size of this process (Linux)."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from benchmarks.fresh_process import resident_mib


@dataclass
class Clock:
    """Marks the end of each optimizer step in wall and CPU seconds; CPU time counts all threads of the process."""

    wall_s: list[float] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)

    def mark(self) -> None:
        self.wall_s.append(time.perf_counter())
        self.cpu_s.append(time.process_time())

    def result(self, warm_up: int) -> dict[str, Any]:
        """Seconds of each step after the warm-up, from the end of the step before it."""
        return {
            name: [round(b - a, 6) for a, b in zip(marks[warm_up - 1 :], marks[warm_up:], strict=False)]
            for name, marks in (("step_wall_s", self.wall_s), ("step_cpu_s", self.cpu_s))
        }


def memory() -> dict[str, float]:
    """`VmHWM` since the process began, imports and loading included, in MiB."""
    return {"peak_mib": round(resident_mib("VmHWM"), 1)}
