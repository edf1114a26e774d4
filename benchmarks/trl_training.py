"""Whole trainings beside TRL's: same teacher, student, sequences, order, optimizer and number of steps; CPU, fp32.

Every contestant trains in a process of its own, in turn, round after round; a round has its own order of the data.
What is measured lies in `--work`: the same command goes on where it was stopped, also by `--at-most`.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from benchmarks.measure import machine
from benchmarks.result import command_line
from benchmarks.side_by_side import rivals
from benchmarks.side_by_side.process import CONTESTANTS, RIVALS, USUAL, held_out, in_fresh_process, initial_kl
from benchmarks.side_by_side.table import table
from benchmarks.side_by_side.world import Settings, World, make

__all__ = ["SIZES", "add_options", "run", "table"]

SIZES = {
    "tiny": Settings(
        size="tiny",
        batch=8,
        length=128,
        steps=40,
        warm_up=10,
        lr_warm_up=5,
        learning_rate=1e-3,
        held_out=32,
        seed=0,
        topk=64,
        threshold=64,
    ),
    "smollm2": Settings(
        size="smollm2",
        batch=4,
        length=256,
        steps=8,
        warm_up=2,
        lr_warm_up=3,
        learning_rate=1e-3,
        held_out=16,
        seed=0,
        topk=64,
        threshold=64,
    ),
}
TITLES = {
    "tiny": "Random Llamas, four layers to two, d = 64, V = 4,096;",
    "smollm2": "SmolLM2-135M (30 layers, d = 576, V = 49,152) to four of its layers, speeches;",
}


def add_options(parser: argparse.ArgumentParser) -> None:
    """The size, rounds, and where measurements are kept."""
    parser.add_argument("--size", choices=SIZES, default="tiny", help="tiny: minutes; smollm2: half an hour on a core")
    parser.add_argument("--rounds", type=int, default=3, help="default 3")
    parser.add_argument("--steps", type=int, default=None, help="optimizer steps; default: that of the size")
    parser.add_argument("--only", nargs="+", choices=CONTESTANTS, default=None, help=f"default: {' '.join(USUAL)}")
    parser.add_argument("--work", default=None, help="directory of measurements, default runs/trl_training/SIZE")
    parser.add_argument("--at-most", type=int, default=None, help="stop after so many new measurements")


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measure what is missing, judge the students, and gather.

    Raises:
        SystemExit: `--at-most` was reached: call again.
    """
    settings = SIZES[options.size]
    if options.steps is not None:
        settings = replace(settings, steps=options.steps)
    directory = Path(options.work) if options.work else Path("runs") / "trl_training" / options.size
    world = make(directory.resolve(), settings)
    chosen = [name for name in CONTESTANTS if name in (options.only or USUAL)]
    if "store" in chosen and "capture" not in chosen:
        raise SystemExit("--only: `store` reads what `capture` leaves; name both")
    reason = rivals.missing()
    absent = {name: {"absent": reason} for name in RIVALS if name in chosen and reason is not None}
    taking_part = [name for name in chosen if name not in absent]
    _measure(world, taking_part, options.rounds, options.at_most)
    cases: dict[str, Any] = {name: {"rounds": []} for name in taking_part} | absent
    for number in range(options.rounds):
        for name in taking_part:
            scratch = _scratch(world, number, name)
            judged = {} if name == "capture" else {"held_out_kl": held_out(world, scratch)}
            measured = {**in_fresh_process(world, name, scratch, number), **judged}
            cases[name]["rounds"].append({key: x for key, x in measured.items() if key not in ("contestant", "model")})
    return {
        "benchmark": options.name,
        "command": command_line(options),
        "machine": machine(),
        "title": TITLES[options.size],
        "settings": asdict(settings),
        "expected": world.expected,
        "initial_kl": initial_kl(world),
        "cases": cases,
    }


def _scratch(world: World, number: int, name: str) -> Path:
    return world.directory / f"round-{number}" / name


def _measure(world: World, names: list[str], rounds: int, at_most: int | None) -> None:
    """Every contestant of every round that is not measured yet, round by round."""
    missing = [
        (number, name)
        for number in range(rounds)
        for name in names
        if not (_scratch(world, number, name) / "result.json").exists()
    ]
    for done, (number, name) in enumerate(missing):
        if at_most is not None and done >= at_most:
            raise SystemExit(f"{len(missing) - done} of {rounds * len(names)} measurements are left: call again")
        in_fresh_process(world, name, _scratch(world, number, name), number)
        print(f"measured {name}, round {number}", flush=True)
