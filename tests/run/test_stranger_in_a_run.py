"""A third-party plugin beside a run: installing it changes no number, naming it uses it on the fused path."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.run.conftest import Workshop, distill

pytestmark = pytest.mark.slow

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "distill-hello"


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """`distill-hello`, installed by plain pip into a folder of its own."""
    source, target = tmp_path / "hello-source", tmp_path / "hello-installed"
    shutil.copytree(EXAMPLE, source, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info", "build"))
    options = ["--quiet", "--no-build-isolation", "--no-deps", "--no-index", "--disable-pip-version-check"]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, "--target", target, source], check=True)
    return target


def train(workshop: Workshop, name: str, **changes: Any) -> list[dict[str, Any]]:
    """Runs up to the trainings in an output directory of its own; the metrics without the clock."""

    def change(run: dict[str, Any]) -> None:
        run["output_dir"] = str(workshop.directory / name)
        for section, fields in changes.items():
            run[section].update(fields)

    result = distill("train", workshop.write(change))
    assert result.returncode == 0, result.stderr
    text = (workshop.directory / name / "train" / "student" / "metrics.jsonl").read_text(encoding="utf-8")
    return [{k: v for k, v in json.loads(line).items() if k != "tokens_per_s"} for line in text.splitlines()]


def test_installing_changes_nothing_and_naming_uses_it(
    tmp_path: Path, tiny_model_dir: Path, installed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workshop = Workshop(tmp_path, tiny_model_dir)
    exact = {"capture": {"method": "topk"}, "train": {"objectives": [{"use": "objectives:total-variation"}]}}
    without = train(workshop, "without"), train(workshop, "without-exact", **exact)

    monkeypatch.setenv("PYTHONPATH", str(installed))
    plugins = distill("plugins", "list", "--kind", "objective", "--json")
    assert "hello:total-variation" in {row["id"] for row in json.loads(plugins.stdout)}
    assert (train(workshop, "beside"), train(workshop, "beside-exact", **exact)) == without

    named = {**exact, "train": {"objectives": [{"use": "hello-total-variation", "name": "total-variation"}]}}
    theirs = train(workshop, "named", **named)
    assert [line["loss"] for line in theirs] == pytest.approx([line["loss"] for line in without[1]], rel=1e-6)
    assert [set(line["objectives"]) for line in theirs] == [{"total-variation"}] * len(theirs)

    ambiguous = distill(
        "validate", workshop.write(lambda run: run["train"].update(objectives=[{"use": "total-variation"}]))
    )
    assert ambiguous.returncode == 2 and "hello:total-variation" in ambiguous.stderr, ambiguous.stderr
