"""Peak memory of one rival, in a process of its own (Linux).

`python -m benchmarks.peak_memory RIVAL ROWS VOCABULARY HIDDEN SUPPORT` prints MiB.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import torch

from benchmarks.rivals import Problem, Size, step


def reset_peak() -> None:
    """Let the kernel's record of this process's largest resident size start again."""
    Path("/proc/self/clear_refs").write_text("5")


def resident_mib(field: str) -> float:
    """`VmRSS` (now) or `VmHWM` (largest since the reset) of this process, in MiB."""
    match = re.search(rf"^{field}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert match is not None
    return int(match[1]) / 1024


def measured_mib(rival: str, size: Size) -> float:
    """Peak memory of a step above what the problem itself takes, in MiB, measured in a fresh process."""
    numbers = [str(number) for number in (size.rows, size.vocabulary, size.hidden, size.support)]
    command = [sys.executable, "-m", "benchmarks.peak_memory", rival, *numbers]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


if __name__ == "__main__":
    torch.set_num_threads(1)
    step(sys.argv[1], Problem.random(Size(8, 100, 8, 4)))  # code and caches of the first call do not count
    problem = Problem.random(Size(*(int(number) for number in sys.argv[2:])))
    before = resident_mib("VmRSS")
    reset_peak()
    step(sys.argv[1], problem)
    print(resident_mib("VmHWM") - before)
