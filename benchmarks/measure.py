"""Time and memory of rival functions in one process: interleaved rounds, the profiler's peak."""

from __future__ import annotations

import platform
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from benchmarks.case import Run

TURN_S = 0.02
"""Seconds that a turn of a fast rival takes at least."""


@dataclass
class Timing:
    """Wall and CPU seconds per call, one entry per round that the rival took part in."""

    wall_s: list[float] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)


def interleave(rivals: Mapping[str, Run], *, rounds: int, seconds_each: float) -> dict[str, Timing]:
    """Two warm-ups each, then `rounds` rounds in which every rival has its turn, so that drift hits all alike.

    A turn is one call, or as many as take `TURN_S` seconds by the second warm-up, and counts as their mean: a call of
    less than a millisecond says little by itself. A rival whose turns have taken `seconds_each` seconds leaves after
    that round; the warm-ups, of which the first may compile, do not count.
    """
    timings = {name: Timing() for name in rivals}
    spent_s = dict.fromkeys(rivals, 0.0)
    calls = {name: _calls_of_a_turn(run) for name, run in rivals.items()}
    for number in range(rounds):
        for name, run in rivals.items():
            if number > 0 and spent_s[name] >= seconds_each:
                continue
            start, cpu_start = time.perf_counter(), time.process_time()
            for _ in range(calls[name]):
                run()
            cpu_s, wall_s = time.process_time() - cpu_start, time.perf_counter() - start
            timings[name].cpu_s.append(cpu_s / calls[name])
            timings[name].wall_s.append(wall_s / calls[name])
            spent_s[name] += wall_s
    return timings


def _calls_of_a_turn(run: Run) -> int:
    run()
    start = time.perf_counter()
    run()
    return max(1, int(TURN_S / max(time.perf_counter() - start, 1e-6)))


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
