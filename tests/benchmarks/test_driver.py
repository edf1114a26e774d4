"""Rounds, peaks, result files and tables of the benchmarks."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from benchmarks import driver, tables
from benchmarks.__main__ import main, parse
from benchmarks.fresh_process import measured_mib
from benchmarks.measure import interleave, memory
from tests.conftest import REPOSITORY

SMALL = ["linear_sparse_kl", "--tokens", "13", "--vocabulary", "301", "--hidden", "7", "--support", "5"]


def test_rounds_are_interleaved_and_the_slow_leave() -> None:
    calls: list[str] = []

    def rival(name: str, seconds: float):  # type: ignore[no-untyped-def]
        def run() -> None:
            calls.append(name)
            time.sleep(seconds)

        return run

    timings = interleave({"fast": rival("fast", 0.03), "slow": rival("slow", 0.3)}, rounds=4, seconds_each=0.29)
    assert calls == ["fast", "fast", "slow", "slow", "fast", "slow", "fast", "fast", "fast"]
    assert [len(timings[name].wall_s) for name in ("fast", "slow")] == [4, 1]
    assert timings["slow"].wall_s[0] >= 0.3 and timings["slow"].cpu_s[0] < 0.3


def test_a_call_that_takes_no_time_is_repeated() -> None:
    calls = 0

    def run() -> None:
        nonlocal calls
        calls += 1

    timing = interleave({"nothing": run}, rounds=2, seconds_each=1.0)["nothing"]
    assert calls > 1000 and len(timing.wall_s) == 2 and max(timing.wall_s) < 1e-3


def test_ratios_are_those_of_the_shared_rounds() -> None:
    assert tables.ratio([2.0, 8.0, 100.0], [1.0, 2.0]) == (3.0, 1.0)
    median, spread = tables.ratio([2.0], [4.0, 5.0])
    assert median == 0.5 and spread != spread


def test_the_profilers_peak_is_that_of_the_tensors() -> None:
    peak, largest = memory(lambda: torch.ones(1 << 18).add(1).sum())
    assert largest == 1 << 20 and 2 << 20 <= peak < (2 << 20) + 4096


def test_vmhwm_sees_logits_that_exist() -> None:
    """13,000 x 301 fp32 logits are 15 MiB: log_softmax holds several such, one row chunk at a time less."""
    size = ["linear_sparse_kl", "--tokens", "13000", "--vocabulary", "301", "--hidden", "8", "--support", "4"]
    whole = 13_000 * 301 * 4 / 2**20
    dense = measured_mib("log_softmax + gather", size)
    assert 2 * whole < dense < 8 * whole
    assert measured_mib("distill-core", size) < dense / 2


def test_a_result_makes_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    only = ["--only", "log_softmax + gather", "distill-core", "three products", "--memory", "profiler", "--rounds", "3"]
    main([*SMALL, *only, "--json", str(tmp_path / "found.json")])
    shown = capsys.readouterr().out
    found = json.loads((tmp_path / "found.json").read_text())
    assert shown.strip() == tables.section(found).strip()
    assert [row["case"] for row in found["cases"]] == ["log_softmax + gather", "distill-core", "three products"]
    assert all(len(row["cpu_s"]) == 3 for row in found["cases"])
    assert found["command"].endswith(
        "python -m benchmarks linear_sparse_kl --tokens 13 --vocabulary 301 --hidden 7 --support 5 --rounds 3 "
        "--only 'log_softmax + gather' distill-core 'three products' --memory profiler"
    )
    header, _, first, *_ = [line for line in shown.splitlines() if line.startswith("|")]
    assert header.count("|") == first.count("|") and "1.00 ± 0.000" in first


def test_absent_rivals_stand_in_the_table() -> None:
    result = {
        "references": ["base"],
        "cases": [
            {"case": "base", "computes": "x", "cpu_s": [1.0, 1.0], "wall_s": [1.0, 1.0]},
            {"case": "gone", "absent": "gone is not installed"},
        ],
    }
    assert "| gone | not measured: gone is not installed |" in tables.timed(result)


def test_unknown_names_are_refused() -> None:
    with pytest.raises(SystemExit, match="no benchmark 'nothing'"):
        parse(["nothing"])
    with pytest.raises(SystemExit, match="no case"):
        driver.run(parse([*SMALL, "--only", "nothing"]))


def test_without_a_name_the_benchmarks_are_listed() -> None:
    done = subprocess.run([sys.executable, "-m", "benchmarks"], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0 and "linear_sparse_kl" in done.stdout and "gradient_quality" in done.stdout
