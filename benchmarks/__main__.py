"""`python -m benchmarks`: a table of time and peak memory, forward and backward, beside plain PyTorch.

Rivals take turns in one process, so that a machine that slows down slows all of them; times are process CPU seconds.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch

from benchmarks.peak_memory import measured_mib
from benchmarks.rivals import RIVALS, Problem, Size, step

SIZES = (Size(512, 49_152, 576, 64), Size(256, 128_256, 256, 64))
TOLERANCE = 1e-4
"""Relative difference of the losses that is allowed: sums of some hundred fp32 values in another order."""


def times_s(size: Size, *, rounds: int) -> dict[str, list[float]]:
    """CPU seconds of each rival's steps, taken in turns, after one turn that is not counted.

    Raises:
        SystemExit: a rival's loss differs from the baseline's; no time is reported for wrong results.
    """
    problem = Problem.random(size)
    losses = {rival: step(rival, problem) for rival in RIVALS}
    expected = next(iter(losses.values()))
    wrong = {rival: loss for rival, loss in losses.items() if abs(loss - expected) > TOLERANCE * abs(expected)}
    if wrong:
        raise SystemExit(f"losses differ from plain torch ({expected}): {wrong}")
    seconds: dict[str, list[float]] = {rival: [] for rival in RIVALS}
    for _ in range(rounds):
        for rival, taken in seconds.items():
            start = time.process_time()
            step(rival, problem)
            taken.append(time.process_time() - start)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="turns of each rival")
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, CPU, one thread, {rounds} rounds; forward + backward, fp32")
    for size in SIZES:
        print(f"\nN = {size.rows}, V = {size.vocabulary:,}, D = {size.hidden}, K = {size.support}")
        print(f"{'':24}{'median s':>10}{'spread s':>10}{'relative':>10}{'peak MiB':>10}")
        seconds = times_s(size, rounds=rounds)
        baseline = statistics.median(next(iter(seconds.values())))
        for rival, taken in seconds.items():
            median = statistics.median(taken)
            spread = max(taken) - min(taken)
            peak = measured_mib(rival, size)
            print(f"{rival:24}{median:10.3f}{spread:10.3f}{median / baseline:10.2f}{peak:10.0f}", flush=True)


if __name__ == "__main__":
    main()
