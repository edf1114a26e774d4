"""``kill -9`` during a capture, then the same command again: byte for byte the store of an uninterrupted capture."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize(
    ("method", "kills"),
    [
        ("threshold", 2),
        pytest.param("threshold", 10, marks=pytest.mark.slow),
        pytest.param("topk", 10, marks=pytest.mark.slow),
    ],
)
def test_killed_captures_resume_byte_for_byte(method: str, kills: int, tmp_path: Path, repository: Path) -> None:
    command = [sys.executable, "-m", "tests.teachers.capture_kill_harness", str(tmp_path), method, str(kills), "11"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=repository, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["hits"] == kills
    assert result["equal"]
    if kills >= 10:
        assert result["states"] >= 3  # the kills came at different moments, not all before the first shard
