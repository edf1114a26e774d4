"""The section on active rounds: both curves, the table, the reason to stop; and what a broken record gives."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from distill_core.errors import DistillError
from distill_core.report import schema, write_report
from tests.report.fake_run import results, write_json, write_run
from tests.report.test_report import HOSTILE, Registry, Structure


def rival(value: float, difference: float) -> dict[str, Any]:
    return {
        "sequences": 64,
        "tokens": 700,
        "value": value,
        "standard_error": 0.02,
        "difference": difference,
        "difference_standard_error": 0.004,
    }


def active(**changes: Any) -> dict[str, Any]:
    rounds = []
    for number, (value, other) in enumerate([(0.30, None), (0.45, 0.38), (0.52, 0.41)]):
        compare = {} if other is None else {"random": rival(other, value - other)}
        rounds.append(
            {
                "round": number,
                "directory": f"runs/a/rounds/{number:02d}",
                "sequences": 64,
                "tokens": 690 + number,
                "value": value,
                "standard_error": 0.015,
                "gain": None if number == 0 else 0.1,
                "compare": compare,
            }
        )
    found = {"metric": "accuracy", "label": "Accuracy", "unit": "fraction", "higher_is_better": True}
    return {**found, "rounds": rounds, "stopped": "all 3 rounds are done", **changes}


def write_rounds(directory: Path, **changes: Any) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    last = write_run(directory / "rounds" / "02")
    found = results()
    found["models"]["random"] = found["models"].pop("hard-labels")
    for one in found["comparisons"]:
        one["baseline"] = one["baseline"].replace("hard-labels", "random")
    write_json(last / "evaluate" / "results.json", found)
    write_json(directory / "active.json", active(**changes))
    return directory


def test_the_page_of_the_whole_is_that_of_the_last_round(tmp_path: Path) -> None:
    root = write_rounds(tmp_path / "a")
    path = write_report(root, registry=Registry())
    assert path == root / "report" / "index.html"
    content = json.loads((root / "report" / "report.json").read_text())
    jsonschema.Draft202012Validator(schema()).validate(content)
    assert content["active"] == active() and set(content["results"]["models"]) == {"teacher", "student", "random"}
    page = path.read_text(encoding="utf-8")
    assert "There is no further round: all 3 rounds are done." in page
    chart = page[page.index('aria-label="Accuracy by labels bought"') :]
    chart = chart[: chart.index("</svg>")]
    for name, last in (("student", "52"), ("random", "41")):
        assert len(re.findall(rf"<title>{name}: \d+, \d+</title>", chart)) == 3
        assert f"<title>{name}: 192, {last}</title>" in chart
    assert chart.count("<title>student: 64, 30</title>") == chart.count("<title>random: 64, 30</title>") == 1
    assert chart.count('class="band') == 2
    assert "the same" in page and "+11.0" in page and "\u00b1 0.40" in page


def test_without_baselines_and_under_way(tmp_path: Path) -> None:
    rounds = [{**one, "compare": {}} for one in active()["rounds"]]
    root = write_rounds(tmp_path / "a", rounds=rounds, stopped=None)
    page = write_report(root, registry=Registry()).read_text(encoding="utf-8")
    assert "Active rounds" in page and "There is no further round" not in page and "student against" not in page


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    plain = Structure(write_report(write_rounds(tmp_path / "b"), registry=Registry()).read_text(encoding="utf-8"))
    rounds = active()["rounds"]
    for one in rounds:
        if one["compare"]:
            one["compare"] = {HOSTILE: one["compare"]["random"]}
    root = write_rounds(tmp_path / "a", rounds=rounds, label=HOSTILE, stopped=HOSTILE)
    page = write_report(root, registry=Registry()).read_text(encoding="utf-8")
    dirty = Structure(page)
    assert not dirty.open and {tag for tag, _ in dirty.tags} <= {tag for tag, _ in plain.tags}
    assert "\x00" not in page and "\u202e" not in page


def test_a_run_without_rounds_has_no_such_section(tmp_path: Path) -> None:
    page = write_report(write_run(tmp_path / "run"), registry=Registry()).read_text(encoding="utf-8")
    assert "Active rounds" not in page


def test_a_record_that_names_no_round_is_refused(tmp_path: Path) -> None:
    root = write_rounds(tmp_path / "a", rounds=[])
    with pytest.raises(DistillError, match=r"active.json names no round .*distill run FILE"):
        write_report(root, registry=Registry())
