"""Arithmetic on what the contestants of every round left: rates, ratios, and when a capture has paid for itself."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

EPOCHS = (1, 3, 10)


@dataclass(frozen=True)
class Ratio:
    """Median over the rounds of the rounds' own ratios, with the smallest and the largest."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Ratio:
        return cls(statistics.median(values), min(values), max(values))


def step_s(measured: dict[str, Any], clock: str) -> float:
    """Mean seconds of a step after the warm-up; `clock`: wall or cpu."""
    return statistics.mean(measured[f"step_{clock}_s"])


def speed(own: Sequence[dict[str, Any]], rival: Sequence[dict[str, Any]], clock: str) -> Ratio:
    """Steps per second over the rival's, round by round."""
    return Ratio.of([step_s(b, clock) / step_s(a, clock) for a, b in zip(own, rival, strict=True)])


def memory(own: Sequence[dict[str, Any]], rival: Sequence[dict[str, Any]]) -> Ratio:
    """Peak resident size over the rival's, round by round."""
    return Ratio.of([a["peak_mib"] / b["peak_mib"] for a, b in zip(own, rival, strict=True)])


def speed_with_capture(
    captures: Sequence[dict[str, Any]],
    own: Sequence[dict[str, Any]],
    rival: Sequence[dict[str, Any]],
    *,
    epochs: float,
    steps: int,
    clock: str,
) -> Ratio:
    """Steps per second over the rival's when the time of the capture is added to the training's.

    An epoch has `steps` steps and every one of its sequences is captured once: the time of E epochs is
    `capture + E * steps * step`, the rival's is `E * steps * step`.
    """
    ratios = []
    for capture, a, b in zip(captures, own, rival, strict=True):
        total_s = capture[f"capture_{clock}_s"] + epochs * steps * step_s(a, clock)
        ratios.append(epochs * steps * step_s(b, clock) / total_s)
    return Ratio.of(ratios)


def break_even_epochs(
    captures: Sequence[dict[str, Any]],
    own: Sequence[dict[str, Any]],
    rival: Sequence[dict[str, Any]],
    *,
    steps: int,
    clock: str,
) -> Ratio:
    """Epochs after which capture and training together took as long as the rival: `capture / (steps * saved)`.

    Infinite where a step from the store saves nothing.
    """
    epochs = []
    for capture, a, b in zip(captures, own, rival, strict=True):
        saved_s = step_s(b, clock) - step_s(a, clock)
        epochs.append(capture[f"capture_{clock}_s"] / (steps * saved_s) if saved_s > 0 else float("inf"))
    return Ratio.of(epochs)


def mean_kl(measured: Sequence[dict[str, Any]]) -> float:
    """Held-out KL, mean over rounds and sequences."""
    return statistics.mean(statistics.mean(one["held_out_kl"]) for one in measured)


def kl_difference(own: Sequence[dict[str, Any]], rival: Sequence[dict[str, Any]]) -> tuple[float, float]:
    """Held-out KL minus the rival's, paired by round and sequence, and its standard error.

    A sequence's difference is first averaged over the rounds; the error is that over sequences.
    """
    by_round = [
        [x - y for x, y in zip(a["held_out_kl"], b["held_out_kl"], strict=True)]
        for a, b in zip(own, rival, strict=True)
    ]
    by_sequence = [statistics.mean(values) for values in zip(*by_round, strict=True)]
    error = statistics.stdev(by_sequence) / len(by_sequence) ** 0.5 if len(by_sequence) > 1 else float("nan")
    return statistics.mean(by_sequence), error
