"""Time and memory of rival functions in one process: interleaved rounds, medians and spread, the profiler's peak."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

Run = Callable[[], object]


@dataclass(frozen=True)
class Timing:
    """Wall and CPU seconds per call, one entry per round, and bytes above the start of the call."""

    name: str
    seconds: tuple[float, ...]
    cpu_seconds: tuple[float, ...]
    peak_bytes: int
    largest_bytes: int

    @property
    def median_s(self) -> float:
        return statistics.median(self.seconds)

    @property
    def spread(self) -> float:
        """(third quartile - first quartile) / median."""
        q1, _, q3 = statistics.quantiles(self.seconds, n=4)
        return (q3 - q1) / self.median_s


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


def interleave(rivals: Mapping[str, Run], *, rounds: int) -> list[Timing]:
    """One warm-up each, then `rounds` rounds in which every rival runs once, so that drift hits all alike."""
    for run in rivals.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in rivals}
    cpu_seconds: dict[str, list[float]] = {name: [] for name in rivals}
    for _ in range(rounds):
        for name, run in rivals.items():
            start, cpu_start = time.perf_counter(), time.process_time()
            run()
            seconds[name].append(time.perf_counter() - start)
            cpu_seconds[name].append(time.process_time() - cpu_start)
    return [Timing(name, tuple(seconds[name]), tuple(cpu_seconds[name]), *memory(run)) for name, run in rivals.items()]


def table(timings: list[Timing], *, baseline: str) -> str:
    """Markdown, one line per rival, ratios to the baseline's median."""
    base = next(t for t in timings if t.name == baseline).median_s
    lines = [
        f"| method | median ms | spread (IQR) | of {baseline} | CPU ms | peak MiB | largest tensor MiB |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for t in timings:
        cpu_ms, peak, largest = statistics.median(t.cpu_seconds) * 1e3, t.peak_bytes / 2**20, t.largest_bytes / 2**20
        lines.append(
            f"| {t.name} | {t.median_s * 1e3:.1f} | {t.spread:.0%} | {t.median_s / base:.2f} "
            f"| {cpu_ms:.1f} | {peak:.1f} | {largest:.1f} |"
        )
    return "\n".join(lines)


def machine() -> str:
    """What the figures were taken on."""
    return (
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}, "
        f"{platform.machine()} CPU"
    )
