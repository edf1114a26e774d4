"""Time and memory of rival functions in one process: interleaved rounds, the profiler's peak."""

from __future__ import annotations

import platform
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from benchmarks.case import Run


@dataclass
class Timing:
    """Wall and CPU seconds per call, one entry per round that the rival took part in."""

    wall_s: list[float] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)


def interleave(rivals: Mapping[str, Run], *, rounds: int, seconds_each: float) -> dict[str, Timing]:
    """One warm-up each, then `rounds` rounds in which every rival runs once, so that drift hits all alike.

    A rival whose measured calls have taken `seconds_each` seconds leaves after that round; the warm-up, which may
    compile, does not count.
    """
    timings = {name: Timing() for name in rivals}
    spent_s = dict.fromkeys(rivals, 0.0)
    for run in rivals.values():
        run()
    for number in range(rounds):
        for name, run in rivals.items():
            if number > 0 and spent_s[name] >= seconds_each:
                continue
            start, cpu_start = time.perf_counter(), time.process_time()
            run()
            timings[name].cpu_s.append(time.process_time() - cpu_start)
            timings[name].wall_s.append(time.perf_counter() - start)
            spent_s[name] += timings[name].wall_s[-1]
    return timings


def memory(run: Run) -> tuple[int, int]:
    """Highest total and largest single allocation in bytes, from the profiler's memory events of one call."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        run()
    total = peak = largest = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            total += event.nbytes()
            peak, largest = max(peak, total), max(largest, event.nbytes())
    return peak, largest


def machine() -> str:
    """What the figures were taken on."""
    return (
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}, "
        f"{platform.machine()} CPU"
    )
