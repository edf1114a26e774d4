"""A teacher assistant chain is two run files: the trained assistant is the teacher of the second."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.run.conftest import Workshop
from tests.run.test_end_to_end import inside


def test_the_assistant_teaches_and_its_change_is_noticed(tmp_path: Path, tiny_model_dir: Path) -> None:
    first = Workshop(tmp_path, tiny_model_dir)
    (tmp_path / "second").mkdir()
    assistant = first.output / "train" / "student" / "model"
    second = Workshop(tmp_path / "second", assistant)

    def run(workshop: Workshop, *words: str) -> Any:
        done = inside("run", workshop.write(lambda run: run["train"].update(max_steps=2)), *words)
        assert done.returncode == 0, done.stderr
        return done

    run(first)
    run(second)
    results = json.loads((second.output / "evaluate" / "results.json").read_text())
    assert results["models"]["teacher"]["source"] == str(assistant)
    assert "nothing was done" in run(second).stdout
    run(first, "--set", "train.learning_rate=0.05")
    again = run(second)
    assert "capture:main" in again.stderr and "runs again" in again.stderr
