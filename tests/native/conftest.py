"""Runs Python in a process of its own with another instruction set: the choice is made once per process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

ISAS = ("base", "avx2", "avx512")

# One process per instruction set and session: importing torch takes longer than most of what is run.
SERVE = """
import contextlib, io, json, sys, traceback
import torch
threads = torch.get_num_threads()
for line in sys.stdin:
    said, failure = io.StringIO(), ""
    try:
        with contextlib.redirect_stdout(said):
            exec(json.loads(line), {"__name__": "__main__"})
    except BaseException:
        failure = traceback.format_exc()
    torch.set_num_threads(threads)
    print(json.dumps([said.getvalue(), failure]), flush=True)
"""


@pytest.fixture(scope="session")
def run_on_isa() -> Iterator[Callable[[str, str], str]]:
    """`run_on_isa(isa, code)`: what `code` prints in a process with these kernels (lower ones where they lack)."""
    processes: dict[str, subprocess.Popen[str]] = {}

    def run(isa: str, code: str) -> str:
        if isa not in processes or processes[isa].poll() is not None:
            processes[isa] = subprocess.Popen(
                [sys.executable, "-c", SERVE],
                env={**os.environ, "DISTILL_CPU_ISA": isa},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        process = processes[isa]
        assert process.stdin and process.stdout
        process.stdin.write(json.dumps(code) + "\n")
        process.stdin.flush()
        answer = process.stdout.readline()
        assert answer, f"the process ended with status {process.wait()}"
        said, failure = json.loads(answer)
        assert not failure, said + failure
        return said

    yield run
    for process in processes.values():
        process.kill()
        process.communicate()


@pytest.fixture(params=ISAS)
def on_isa(request: pytest.FixtureRequest, run_on_isa: Callable[[str, str], str]) -> Callable[[str], str]:
    """`on_isa(code)` runs `code` with the kernels of one instruction set (a lower one where the machine lacks it)."""
    return lambda code: run_on_isa(request.param, code)
