"""Run the cases of a benchmark: times interleaved, then the peak of each by both measures; the result is plain data."""

from __future__ import annotations

import argparse
from typing import Any

import torch

from benchmarks.case import Absent, Case
from benchmarks.fresh_process import measured_mib
from benchmarks.measure import interleave, machine, memory
from benchmarks.result import arguments_of, command_line, setting_names
from distill_core import ops


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of every timed benchmark."""
    parser.add_argument("--rounds", type=int, default=9, help="default 9")
    parser.add_argument(
        "--seconds-each", type=float, default=20.0, help="a case leaves the rounds after this many seconds, default 20"
    )
    parser.add_argument("--threads", type=int, default=None, help="torch threads; default: torch's own choice")
    parser.add_argument("--only", nargs="+", metavar="CASE", default=None, help="cases to run; default: all")
    parser.add_argument(
        "--memory",
        choices=("both", "profiler", "none"),
        default="both",
        help="peaks by profiler and VmHWM, default both",
    )
    parser.add_argument("--huge-pages", action="store_true", help="THP_MEM_ALLOC_ENABLE=1: huge pages for every case")


def threads(options: argparse.Namespace) -> None:
    if options.threads is not None:
        torch.set_num_threads(options.threads)


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Times and peaks of all cases, or of those named by `--only`."""
    threads(options)
    cases = options.module.cases(options)
    unknown = set(options.only or ()) - set(cases)
    if unknown:
        raise SystemExit(f"--only: no case {sorted(unknown)}; {options.name} has {list(cases)}")
    chosen = {name: case for name, case in cases.items() if not options.only or name in options.only}
    runs = {name: case.build() for name, case in chosen.items() if isinstance(case, Case)}
    timings = interleave(runs, rounds=options.rounds, seconds_each=options.seconds_each)
    rows = []
    for name, case in chosen.items():
        if isinstance(case, Absent):
            rows.append({"case": name, "absent": case.reason})
            continue
        row: dict[str, Any] = {
            "case": name,
            "computes": case.computes,
            "same": case.same,
            "cpu_s": [round(x, 6) for x in timings[name].cpu_s],
            "wall_s": [round(x, 6) for x in timings[name].wall_s],
        }
        if options.memory != "none":
            row["peak_profiler_mib"] = round(memory(runs[name])[0] / 2**20, 2)
        if options.memory == "both":
            row["peak_vmhwm_mib"] = round(measured_mib(name, arguments_of(options)), 2)
        rows.append(row)
    return {
        "benchmark": options.name,
        "command": command_line(options),
        "machine": machine(),
        "settings": {name: getattr(options, name) for name in setting_names(options)},
        "references": [name for name in options.module.references(options) if name in chosen],
        "implementations": ops.chosen(),
        "title": options.module.title(options),
        "cases": rows,
    }
