"""Runs Python in a process of its own with another instruction set: the choice is made once per process."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

ISAS = ("base", "avx2", "avx512")


@pytest.fixture(params=ISAS)
def on_isa(request):
    """`on_isa(code)` runs `code` with the kernels of one instruction set (a lower one where the machine lacks it)."""

    def run(code: str) -> str:
        environment = {**os.environ, "DISTILL_CPU_ISA": request.param}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run
