"""Filters in a run file: validated, part of the fingerprint, built with the run's teachers, told in the manifest."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from distill_core.engine.plan import make_plan
from distill_core.engine.progress import Progress
from distill_core.engine.run import run
from distill_core.errors import ConfigError
from distill_core.registry import get_registry
from tests.run.conftest import Workshop

Change = Callable[[dict[str, Any]], None]


@pytest.fixture
def workshop(tmp_path: Path, tiny_model_dir: Path) -> Workshop:
    return Workshop(tmp_path, tiny_model_dir)


def with_filters(*filters: dict[str, Any]) -> Change:
    def change(file: dict[str, Any]) -> None:
        file["data"]["train"]["filters"] = list(filters)

    return change


def problems(workshop: Workshop, *filters: dict[str, Any]) -> str:
    with pytest.raises(ConfigError) as caught:
        workshop.check(with_filters(*filters))
    return "\n".join(caught.value.problems)


def test_everything_is_checked_before_a_run_and_where_it_stands(workshop: Workshop) -> None:
    found = problems(
        workshop,
        {"use": "length"},
        {"use": "decontamination", "against": {"quiz": "gone.jsonl"}},
        {"use": "decontamination", "against": {"quiz": {"use": "jsonll", "path": "x"}}},
        {"use": "safety-list", "file": "gone.txt"},
        {"use": "language", "keep": ["english"]},
        {"use": "judge", "rubric": "gone.j2"},
        {"use": "judge", "teacher": "nobody"},
    )
    for place, message in (
        ("data.train.filters[0]", "neither min nor max"),
        ("data.train.filters[1].against.quiz", "gone.jsonl"),
        ("data.train.filters[2].against.quiz.use", "'jsonl'"),
        ("data.train.filters[3].file", "gone.txt cannot be read"),
        ("data.train.filters[4].keep", "no language 'english'"),
        ("data.train.filters[5].rubric", "gone.j2 cannot be read"),
    ):
        assert any(line.startswith(place) and message in line for line in found.splitlines()), (place, found)
    assert "no teacher is called 'nobody'" in problems(workshop, {"use": "judge", "teacher": "nobody"})


def parts(workshop: Workshop, change: Change) -> dict[str, Any]:
    plan = make_plan(workshop.check(change), registry=get_registry())
    return dict(plan["data:train"].parts())


def test_what_a_filter_reads_belongs_to_the_fingerprint(workshop: Workshop, tmp_path: Path) -> None:
    for name in ("words.txt", "rubric.j2", "quiz.jsonl"):
        (tmp_path / name).write_text('{"text": "{{ text }} one two three four five six seven eight"}\n')
    change = with_filters(
        {"use": "safety-list", "file": str(tmp_path / "words.txt")},
        {"use": "judge", "rubric": str(tmp_path / "rubric.j2")},
        {"use": "decontamination", "against": {"quiz": str(tmp_path / "quiz.jsonl")}},
    )
    before = parts(workshop, change)
    assert before == parts(workshop, change)
    for name in ("words.txt", "rubric.j2", "quiz.jsonl"):
        path = tmp_path / name
        path.write_text(path.read_text() + '{"text": "another {{ text }}"}\n')
        after = parts(workshop, change)
        differ = {key for key in after if after[key] != before.get(key)}
        assert differ and all(key.startswith("data.train.filters[") for key in differ), (name, differ)
        before = after
    assert any(key.startswith("teacher") for key in before), "the teacher that judges"


def test_a_run_tells_what_was_dropped(workshop: Workshop, tmp_path: Path) -> None:
    rows = [{"text": f"Row {n} of the file says that {n} times {n} is {n * n}."} for n in range(6)]
    rows += [rows[0], {"text": "short"}, {"text": "A word that is forbidden stands in this row of the file."}]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "words.txt").write_text("forbidden\n")
    (tmp_path / "quiz.jsonl").write_text(json.dumps({"text": "row 3 of the file says that 3 times 3 is 9"}) + "\n")
    change = with_filters(
        {"use": "exact-dedup"},
        {"use": "length", "unit": "tokens", "min": 8},
        {"use": "safety-list", "file": str(tmp_path / "words.txt")},
        {"use": "decontamination", "against": {"quiz": str(tmp_path / "quiz.jsonl")}, "ngram": 8},
        {"use": "perplexity", "model": workshop.good["teacher"]["model"], "min": 1e-9},
        {"use": "judge", "unparsable": "keep", "max_new_tokens": 2},
    )
    said: list[str] = []
    progress = Progress(quiet=True)
    progress.say = said.append  # type: ignore[method-assign]
    run(workshop.check(change), registry=get_registry(), progress=progress, upto="data")
    notes = json.loads((workshop.output / "data" / "train" / "manifest.json").read_text())["notes"]
    assert [(step["step"], step["in"], step["out"], step["reasons"]) for step in notes["funnel"][:5]] == [
        ("exact-dedup", 9, 8, {"duplicate": 1}),
        ("length", 8, 7, {"too short": 1}),
        ("safety-list", 7, 6, {"listed": 1}),
        ("decontamination", 6, 5, {"in quiz": 1}),
        ("perplexity", 5, 5, {}),
    ]
    assert not any("examples" in step for step in notes["funnel"])
    assert any("safety-list dropped 1 of 7 (listed: 1)" in line for line in said), said
    data = json.loads((workshop.output / "data" / "train" / "data.json").read_text())
    assert data["funnel"][2]["examples"] == {"listed": [{"document": "train.jsonl:9", "detail": "line 1 (1 times)"}]}
    answers = workshop.output / "filters" / "judge" / "completions.jsonl"
    assert len(answers.read_text().splitlines()) == 5
    again = run(workshop.check(change), registry=get_registry(), progress=progress, upto="data")
    assert again.nothing_done
