"""`kill -9` at random moments, then the same command again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY


@pytest.mark.parametrize(
    ("kills", "seed"), [pytest.param(2, 5, id="two-kills"), pytest.param(10, 6, id="ten-kills", marks=pytest.mark.slow)]
)
def test_killed_trainings_end_as_an_uninterrupted_one(tmp_path: Path, kills: int, seed: int) -> None:
    command = [sys.executable, "-m", "tests.train.kill_harness", str(tmp_path), str(kills), str(seed)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr[-4000:]
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["kills"] == kills and report["finished"] >= 1 and report["steps"] == 12
    assert report["equal"]
