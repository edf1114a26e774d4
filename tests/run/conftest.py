"""A small run file on real components, with data and a tiny teacher beside it."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from distill_core.registry import get_registry

ROWS = [f"Record {n} of the small data set says that {n} times {n} is {n * n}: anyone can check." for n in range(12)]


def base_run(directory: Path, teacher: Path) -> dict[str, Any]:
    """Plain data of a good run file."""
    return {
        "name": "small",
        "output_dir": str(directory / "out"),
        "teacher": {"use": "hf", "model": str(teacher)},
        "data": {
            "train": {"source": {"use": "jsonl", "path": str(directory / "train.jsonl")}},
            "eval": {"source": {"use": "jsonl", "path": str(directory / "eval.jsonl")}},
            "sequence_length_tokens": 24,
            "min_sequence_tokens": 4,
        },
        "student": {"init": {"from_teacher": {"layers": [0]}}},
        "capture": {"method": "threshold", "k": 6},
        "train": {"max_steps": 3, "batch_sequences": 2},
    }


def write_rows(path: Path, texts: list[str]) -> Path:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    return path


class Workshop:
    """A directory with data, and run files made from changes to a good one."""

    def __init__(self, directory: Path, teacher: Path) -> None:
        self.directory = directory
        self.good = base_run(directory, teacher)
        write_rows(directory / "train.jsonl", ROWS[:8])
        write_rows(directory / "eval.jsonl", ROWS[8:])

    @property
    def output(self) -> Path:
        return self.directory / "out"

    def write(self, change: Callable[[dict[str, Any]], None] | None = None) -> Path:
        data = copy.deepcopy(self.good)
        if change is not None:
            change(data)
        path = self.directory / "run.yaml"
        path.write_text(yaml.safe_dump(data, sort_keys=False), encoding="utf-8")
        return path

    def check(self, change: Callable[[dict[str, Any]], None] | None = None, *overrides: str) -> Any:
        from distill_core.engine.run_file.validate import load_run_file

        return load_run_file(self.write(change), overrides, registry=get_registry())


@pytest.fixture
def plain_teacher(tmp_path: Path) -> Path:
    """A directory that validates as a model directory; nothing in it can be loaded."""
    directory = tmp_path / "teacher"
    directory.mkdir()
    (directory / "config.json").write_text('{"model_type": "llama", "max_position_embeddings": 64}')
    return directory


@pytest.fixture
def workshop(tmp_path: Path, plain_teacher: Path) -> Workshop:
    return Workshop(tmp_path, plain_teacher)


def distill(*words: object, cwd: Path | None = None, timeout_s: float = 120) -> subprocess.CompletedProcess[str]:
    """The command line in a process of its own."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "NO_COLOR": "1"}
    return subprocess.run(
        [sys.executable, "-m", "distill_core.cli", *map(str, words)],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=timeout_s,
    )
