"""The ``answers`` teacher: what a file holds, by id or prompt."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from distill_core.completions import GenerationParameters, GenerationRequest
from distill_core.errors import DataError, SignalError
from distill_core.registry import get_registry
from distill_core.testing import check_plugin
from distill_core.types import Needs
from tests.teachers.conftest import random_sequences

LINES: list[dict[str, Any]] = [
    {"id": "q1", "prompt": "Capital of France?", "answer": "Paris"},
    {"prompt": "2 + 2?", "answer": "four"},
    {"prompt": "2 + 2?", "answer": "4"},
    {"id": "q3", "answer": "日本語 🙂"},
]


def write(path: Path, lines: list[dict[str, Any]]) -> Path:
    path.write_text("\n".join(json.dumps(line, ensure_ascii=False) for line in lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def teacher(tmp_path: Path) -> Any:
    path = write(tmp_path / "answers.jsonl", LINES)
    return get_registry().build("teacher", {"use": "answers", "path": str(path)})


def test_answers_by_id_then_by_prompt(teacher: Any) -> None:
    requests = [
        GenerationRequest("other", prompt="Capital of France?"),
        GenerationRequest("q1", prompt="asked in other words"),
        GenerationRequest("q3", prompt="anything"),
        GenerationRequest("chat", messages=({"role": "system", "content": "x"}, {"role": "user", "content": "2 + 2?"})),
    ]
    answers = list(teacher.generate(requests, GenerationParameters()))
    assert [(answer.id, answer.text) for answer in answers] == [
        ("other", "Paris"),
        ("q1", "Paris"),
        ("q3", "日本語 🙂"),
        ("chat", "four"),
    ]
    assert teacher.tally.requests == 4


def test_several_answers_are_drawn_from(teacher: Any) -> None:
    requests = [GenerationRequest(f"s{i}", prompt="2 + 2?") for i in range(40)]
    drawn = [a.text for a in teacher.generate(requests, GenerationParameters(temperature=1.0, seed=1))]
    assert 8 < drawn.count("4") < 32
    assert drawn == [a.text for a in teacher.generate(requests, GenerationParameters(temperature=1.0, seed=1))]


def test_identity_is_the_content(teacher: Any, tmp_path: Path) -> None:
    registry = get_registry()
    same = write(tmp_path / "elsewhere.jsonl", LINES)
    other = write(tmp_path / "changed.jsonl", LINES[:-1])
    assert registry.build("teacher", {"use": "answers", "path": str(same)}).identity() == teacher.identity()
    assert registry.build("teacher", {"use": "answers", "path": str(other)}).identity() != teacher.identity()


def test_conformance(tmp_path: Path) -> None:
    lines = [{"id": "r0", "answer": "one"}, {"id": "r1", "answer": "two"}]
    options = {"answers": {"path": str(write(tmp_path / "a.jsonl", lines))}}
    results = [r for r in check_plugin("distill-teachers", options=options) if "teachers:answers" in r.component]
    assert [f"{r.check}: {r.detail}" for r in results if r.status == "failed"] == []
    assert any("writes one answer per request" in r.check.replace("_", " ") for r in results if r.status == "passed")


def test_wrong_use(teacher: Any, tmp_path: Path) -> None:
    with pytest.raises(SignalError, match=r"no answer to request 'q9' \(prompt 'unheard'\)"):
        list(teacher.generate([GenerationRequest("q9", prompt="unheard")], GenerationParameters()))
    with pytest.raises(SignalError, match="have no log-probabilities: top_logprobs = 3 was asked for"):
        list(teacher.generate([GenerationRequest("q1", prompt="x")], GenerationParameters(top_logprobs=3)))
    with pytest.raises(SignalError, match=r"set student.tokenizer"):
        teacher.vocabulary()
    from distill_core.engine.data import collate

    batch = collate(random_sequences(2, vocabulary=50))
    with pytest.raises(SignalError, match=r"are text: they give no \['targets'\]"):
        teacher.signals(batch, Needs(frozenset({"targets"})))
    path = tmp_path / "broken.jsonl"
    for content, message in (
        ('{"id": "a", "answer": "b"}\n{"id": "a", "ans', "line 2: no JSON"),
        ('{"id": "a"}\n', r"line 1: expected 'answer' \(text\) and 'id' or 'prompt', received the fields \['id'\]"),
        ("[1]\n", "a JSON list, expected an object"),
        ("\n", "holds no answers"),
    ):
        path.write_text(content)
        broken = get_registry().build("teacher", {"use": "answers", "path": str(path)})
        with pytest.raises(DataError, match=message):
            list(broken.generate([GenerationRequest("a", prompt="x")], GenerationParameters()))
