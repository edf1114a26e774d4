"""Markdown of a side-by-side result: what each contestant did, and ours over each rival."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from benchmarks.side_by_side import summary
from benchmarks.side_by_side.summary import EPOCHS, Ratio

NAMES = {
    "distillation": "TRL `DistillationTrainer`",
    "gkd": "TRL `GKDTrainer`",
    "live": "distill-core, live teacher",
    "live-topk": "distill-core, live teacher, top-k and the rest",
    "store": "distill-core, from the store",
    "capture": "distill-core, capture",
}
RIVALS = ("distillation", "gkd")


def line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def grid(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join([line(heads), line(["---", *["---:"] * (len(heads) - 1)]), *map(line, rows)])


def shown(ratio: Ratio) -> str:
    """`1.62 (1.55 to 1.70)`."""
    if ratio.median == float("inf"):
        return "never"
    return f"{ratio.median:.2f} ({ratio.low:.2f} to {ratio.high:.2f})"


def contestants(result: dict[str, Any]) -> str:
    """One line each: medians over the rounds."""
    rows = []
    for name, label in NAMES.items():
        case = result["cases"].get(name)
        if case is None:
            continue
        if "absent" in case:
            rows.append([label, f"not measured: {case['absent']}", *[""] * 5])
            continue
        rounds = case["rounds"]
        peak = f"{statistics.median(one['peak_mib'] for one in rounds):,.0f}"
        if name == "capture":
            wall, cpu = (statistics.median(one[f"capture_{clock}_s"] for one in rounds) for clock in ("wall", "cpu"))
            n = rounds[0]["sequences"]
            rows.append([label, f"{n} sequences in {wall:.2f} s", f"{cpu:.2f} for all", peak, "", "", str(len(rounds))])
            continue
        wall, cpu = (statistics.median(summary.step_s(one, clock) for one in rounds) for clock in ("wall", "cpu"))
        first = f"{rounds[0]['losses'][0]:.4f}"
        kl = f"{summary.mean_kl(rounds):.4f}"
        rows.append([label, f"{1 / wall:.3g}", f"{cpu:.3g}", peak, first, kl, str(len(rounds))])
    heads = [
        "contestant",
        "steps per second",
        "CPU s per step",
        "peak RSS, MiB",
        "loss of step 1",
        "held-out KL",
        "rounds",
    ]
    return grid(heads, rows)


def comparison(result: dict[str, Any], rival: str) -> str:
    """Ours over one rival."""
    rounds = {name: case["rounds"] for name, case in result["cases"].items() if "rounds" in case}
    other, rows = rounds[rival], []
    for name in ("live", "live-topk", "store"):
        if name not in rounds:
            continue
        own = rounds[name]
        difference, error = summary.kl_difference(own, other)
        speeds = [shown(summary.speed(own, other, clock)) for clock in ("wall", "cpu")]
        what = f"{NAMES[name]}{', training only' if name == 'store' else ''}"
        rows.append([what, *speeds, shown(summary.memory(own, other)), f"{difference:+.4f} ± {error:.4f}"])
    if "store" in rounds and "capture" in rounds:
        rows += _with_capture(rounds, other, result["settings"]["steps"])
    heads = [f"over {NAMES[rival]}", "steps per second", "by CPU time", "peak RSS", "held-out KL, difference"]
    return grid(heads, rows)


def _with_capture(rounds: dict[str, Any], other: list[dict[str, Any]], steps: int) -> list[list[str]]:
    """The store's line with the capture's time added, and where that breaks even."""
    captures, own = rounds["capture"], rounds["store"]
    both = [{"peak_mib": max(a["peak_mib"], b["peak_mib"])} for a, b in zip(captures, own, strict=True)]
    rows = []
    for epochs in EPOCHS:
        speeds = [
            shown(summary.speed_with_capture(captures, own, other, epochs=epochs, steps=steps, clock=clock))
            for clock in ("wall", "cpu")
        ]
        label = f"from the store, capture counted, {epochs} epoch{'s' if epochs > 1 else ''}"
        rows.append([label, *speeds, shown(summary.memory(both, other)), ""])
    even = [
        shown(summary.break_even_epochs(captures, own, other, steps=steps, clock=clock)) for clock in ("wall", "cpu")
    ]
    rows.append(["breaks even after so many epochs", *even, "", ""])
    if "live" in rounds:
        even = [
            shown(summary.break_even_epochs(captures, own, rounds["live"], steps=steps, clock=clock))
            for clock in ("wall", "cpu")
        ]
        rows.append(["and against our own live teacher", *even, "", ""])
    return rows


def first_losses(result: dict[str, Any]) -> str:
    """How far the losses of the first step lie from dense fp64 formulas on the same batch."""
    expected, cases = result["expected"], result["cases"]

    def first(name: str) -> float | None:
        return cases[name]["rounds"][0]["losses"][0] if "rounds" in cases.get(name, {}) else None

    parts = [f"full KL {expected['full']:.4f}"]
    for name in RIVALS:
        if (value := first(name)) is not None:
            parts.append(f"{NAMES[name]} is off by {abs(value - expected['full']):.1e}")
    if (value := first("live-topk")) is not None:
        parts.append(
            f"KL on the {result['settings']['topk']} largest entries and a bucket for the rest {expected['topk']:.4f}, "
            f"{NAMES['live-topk']} is off by {abs(value - expected['topk']):.1e}"
        )
    for name in ("live", "store"):
        if (value := first(name)) is not None:
            deviation = (value - expected["full"]) / expected["threshold_sd"]
            parts.append(f"{NAMES[name]}, a sample with that mean, {deviation:+.2f} standard deviations from it")
    return "First step, against dense fp64 formulas: " + "; ".join(parts) + "."


def table(result: dict[str, Any]) -> str:
    """Everything."""
    s = result["settings"]
    present = [name for name in RIVALS if "rounds" in result["cases"].get(name, {})]
    head = (
        f"{result['title']} {result['machine']}. {s['steps']} steps of {s['batch']} sequences of {s['length']} "
        f"tokens, the first {s['warm_up']} not timed; AdamW, learning rate {s['learning_rate']:g} after a warm-up of "
        f"{s['lr_warm_up']} steps; {s['held_out']} held-out sequences, whose KL before training is "
        f"{result['initial_kl']:.4f}."
    )
    parts = [head, contestants(result), *(comparison(result, name) for name in present), first_losses(result)]
    return "\n\n".join(parts)
