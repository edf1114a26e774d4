"""What was set otherwise for each compared student, on the page and in the data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from distill_core.report import write_report
from distill_core.report.overlays import overlays
from tests.report.fake_run import results, write_json, write_run
from tests.report.test_report import Registry

OURS = {
    "train.teacher": "store",
    "train.learning_rate": 0.001,
    "train.objectives[0].use": "objectives:forward-kl",
    "train.objectives[0].temperature": 2.0,
    "train.objectives[0] (version)": "0.1.0",
    "seed": 0,
    "output of capture:main": "abc",
    "output of select": "def",
}
HARD = {
    "train.teacher": "none",
    "train.learning_rate": 0.001,
    "compare.hard.objectives[0].use": "objectives:cross-entropy",
    "compare.hard.objectives[0] (version)": "0.2.0",
    "seed": 0,
    "output of select": "def",
}


def manifests(**others: Any) -> dict[str, Any]:
    return {f"train/{name}": {"parts": parts} for name, parts in {"student": OURS, **others}.items()}


def test_what_differs_wherever_it_stands_in_the_run_file() -> None:
    assert overlays(manifests(hard=HARD, same=dict(OURS)), ["hard", "same", "not-there"]) == {
        "hard": [
            {"setting": "teacher", "student": "store", "other": "none"},
            {"setting": "objectives[0].use", "student": "objectives:forward-kl", "other": "objectives:cross-entropy"},
            {"setting": "objectives[0].temperature", "student": 2.0, "other": None},
            {"setting": "reads capture:main", "student": True, "other": None},
        ],
        "same": [],
    }


@pytest.mark.parametrize("own", [None, {}, {"parts": None}, "text"])
def test_without_a_manifest_nothing_is_said(own: Any) -> None:
    found = manifests(hard=HARD) | {"train/student": own}
    assert overlays({k: v for k, v in found.items() if v is not None}, ["hard"]) == {}


def test_the_page_says_it(tmp_path: Path) -> None:
    directory = write_run(tmp_path / "run")
    for name, parts in (("student", OURS), ("hard-labels", {**HARD})):
        path = directory / "train" / name / "manifest.json"
        write_json(path, {**(json.loads(path.read_text()) if path.is_file() else {}), "parts": parts})
    found = results()
    found["models"]["elsewhere"] = found["models"]["hard-labels"]
    write_json(directory / "evaluate" / "results.json", found)
    text = (directory / "run.yaml").read_text() + "\nevaluate: {models: {elsewhere: some/model}}\n"
    (directory / "run.yaml").write_text(text)
    page = write_report(directory, registry=Registry()).read_text(encoding="utf-8")
    assert "What was set otherwise for each compared student" in page
    assert "objectives[0].temperature" in page and "objectives:forward-kl" in page
    assert "Not trained by this run but judged beside it: elsewhere." in page
    content = json.loads((directory / "report" / "report.json").read_text())
    settings = [one["setting"] for one in content["overlays"]["hard-labels"]]
    assert "teacher" in settings and "learning_rate" not in settings and "seed" not in settings


def test_an_equal_student_is_said_to_be_equal(tmp_path: Path) -> None:
    directory = write_run(tmp_path / "run")
    for name in ("student", "hard-labels"):
        write_json(directory / "train" / name / "manifest.json", {"parts": OURS})
    page = write_report(directory, registry=Registry()).read_text(encoding="utf-8")
    assert "Trained exactly as the student: hard-labels." in page
