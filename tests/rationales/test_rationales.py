"""The synthesizer `rationales` and the transform `rationale-tasks`, with a teacher that answers from a script."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from distill_core.completions import Completion, GenerationParameters, GenerationRequest
from distill_core.errors import DataError, SignalError
from distill_core.interfaces import SynthesisContext
from distill_core.registry import get_registry
from distill_synthesis.rationales.options import KeyPoints, RationalesOptions, RationaleTasksOptions
from distill_synthesis.rationales.synthesizer import Rationales
from distill_synthesis.rationales.tasks import RationaleTasks
from distill_synthesis.rationales.template import PromptTemplate

QUESTIONS = [{"question": f"{n} + 1?", "answer": str(n + 1), "document": f"q{n}"} for n in range(4)]


class Scripted:
    """Writes a right answer for draws 0 and 1, a wrong one for 2, none for 3; a hint is followed."""

    def __init__(self, die_after: int | None = None, wrong: bool = False) -> None:
        self.asked: list[str] = []
        self.die_after, self.wrong = die_after, wrong

    def identity(self) -> str:
        return "scripted@1"

    def generate(self, requests: Iterable[GenerationRequest], parameters: GenerationParameters) -> Iterator[Completion]:
        for request in requests:
            if self.die_after is not None and len(self.asked) >= self.die_after:
                raise KeyboardInterrupt
            self.asked.append(request.id)
            number, draw = int(request.id.split(":")[0]), request.id.split("#")[1]
            right = draw == "hint" or (draw in "01" and not self.wrong)
            answer = number + 1 if right else 99
            text = f" we add one, way {draw}.\nAnswer: {answer}" if draw != "3" else " no idea"
            yield Completion(request.id, text)


def make(teacher: Any, **options: Any) -> Rationales:
    given = {"checker": {"use": "numeric-answer"}, **options}
    synthesizer = Rationales(RationalesOptions(**given))
    registry = get_registry()
    synthesizer.build(SynthesisContext(0, registry.build, lambda name: teacher, lambda: None, lambda text: None))
    return synthesizer


def test_right_answers_stay_with_their_provenance(tmp_path: Path) -> None:
    synthesizer = make(Scripted())
    records = list(synthesizer.synthesize(QUESTIONS, tmp_path))
    assert [(r["document"], r["rationale"]) for r in records[:2]] == [
        ("q0", "we add one, way 0."),
        ("q0", "we add one, way 1."),
    ]
    assert len(records) == 8 and {r["weight"] for r in records} == {0.5}
    origin = records[0]["provenance"]["rationale"]
    assert origin["teacher"] == "scripted@1" and origin["votes"] == {"1": 2, "99": 1} and origin["samples"] == 4
    assert origin["verdicts"] == ["accepted", "accepted", "checker: another number", "no answer in the text"]
    assert origin["parameters"]["temperature"] == 0.7 and len(origin["template_sha256"]) == 64
    assert json.loads(json.dumps(records)) == records
    summary = synthesizer.summary()
    assert summary["samples"] == 16 and summary["rationales_kept"] == 8
    assert summary["rejected"] == {"checker: another number": 4, "no answer in the text": 4}


def test_the_vote_needs_no_checker_and_keep_limits(tmp_path: Path) -> None:
    records = list(make(Scripted(), checker=None, select="vote", min_votes=2, keep=1).synthesize(QUESTIONS, tmp_path))
    assert [r["provenance"]["rationale"]["written_answer"] for r in records] == ["1", "2", "3", "4"]


def test_a_wrong_majority_is_followed_by_the_vote_and_stopped_by_the_answer(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    records = list(make(Scripted(wrong=True), checker=None, select="vote").synthesize(QUESTIONS, tmp_path / "a"))
    assert {r["provenance"]["rationale"]["written_answer"] for r in records} == {"99"}
    (tmp_path / "b").mkdir()
    with pytest.raises(DataError) as caught:
        list(make(Scripted(wrong=True)).synthesize(QUESTIONS, tmp_path / "b"))
    assert "4 questions, 16 samples, 0 rationales kept" in str(caught.value)
    assert "checker: another number: 12" in str(caught.value)


def test_a_hint_helps_where_nothing_was_accepted(tmp_path: Path) -> None:
    teacher = Scripted(wrong=True)
    records = list(make(teacher, hint_failed=True).synthesize(QUESTIONS, tmp_path))
    assert [r["provenance"]["rationale"]["hinted"] for r in records] == [True] * 4
    assert sum(name.endswith("#hint") for name in teacher.asked) == 4


class Terse(Scripted):
    """Another teacher: it knows the odd questions alone, and says so in its own words."""

    def identity(self) -> str:
        return "terse@1"

    def generate(self, requests: Iterable[GenerationRequest], parameters: GenerationParameters) -> Iterator[Completion]:
        for request in requests:
            self.asked.append(request.id)
            number, draw = int(request.id.split(":")[0]), request.id.split("#")[1]
            answer = number + 1 if number % 2 or draw == "hint" else 7
            yield Completion(request.id, f" next after {number}.\nAnswer: {answer}")


def test_several_teachers_write_for_every_question(tmp_path: Path) -> None:
    """Label loss plus alpha times each teacher's rationale loss: the weights of the records say so."""
    teachers = {"long": Scripted(), "terse": Terse()}
    options = RationalesOptions(
        checker={"use": "numeric-answer"}, teachers={"long": 1.0, "terse": 0.25}, samples=2, hint_failed=True, keep=1
    )
    synthesizer = Rationales(options)
    registry = get_registry()
    synthesizer.build(SynthesisContext(0, registry.build, lambda name: teachers[name or ""], lambda: None, print))
    records = list(synthesizer.synthesize(QUESTIONS, tmp_path))
    found = [
        (r["document"], r["provenance"]["rationale"]["teacher"], r["rationale_weight"], r["weight"]) for r in records
    ]
    assert found[:2] == [("q0", "scripted@1", 1.0, 0.5), ("q0", "terse@1", 0.25, 0.5)] and len(found) == 8
    hinted = {r["document"] for r in records if r["provenance"]["rationale"]["hinted"]}
    assert hinted == {"q0", "q2"} and [name for name in teachers["long"].asked if "hint" in name] == []
    assert records[0]["provenance"]["rationale"]["votes"] == {"1": 2, "7": 2}
    tasks = RationaleTasks(RationaleTasksOptions(rationale_weight=2.0))
    assert [[made["weight"] for made in tasks.transform(r)] for r in records[:2]] == [[0.5, 1.0], [0.5, 0.25]]
    again = Rationales(options)
    silent = {"long": Scripted(die_after=0), "terse": Terse()}
    again.build(SynthesisContext(0, registry.build, lambda name: silent[name or ""], lambda: None, print))
    assert list(again.synthesize(QUESTIONS, tmp_path)) == records and silent["terse"].asked == []
    with pytest.raises(ValidationError, match="teacher is a and teachers are b: name one or several"):
        RationalesOptions(checker={"use": "numeric-answer"}, teacher="a", teachers={"b": 1.0})


def test_an_interrupted_synthesis_asks_for_nothing_twice(tmp_path: Path) -> None:
    whole = list(make(Scripted()).synthesize(QUESTIONS, tmp_path))
    (tmp_path / "resumed").mkdir()
    first, second = Scripted(die_after=6), Scripted()
    with pytest.raises(KeyboardInterrupt):
        list(make(first, window=4).synthesize(QUESTIONS, tmp_path / "resumed"))
    with open(tmp_path / "resumed" / "completions.jsonl", "ab") as file:
        file.write(b'{"key": "half a li')  # what a kill in the middle of a write leaves
    synthesizer = make(second, window=4)
    assert list(synthesizer.synthesize(QUESTIONS, tmp_path / "resumed")) == whole
    assert len(first.asked) == 6 and sorted(first.asked + second.asked) == sorted(set(first.asked + second.asked))
    assert synthesizer.summary()["samples_from_cache"] == 6
    other = Scripted()
    list(make(other, temperature=0.9).synthesize(QUESTIONS, tmp_path / "resumed"))
    assert len(other.asked) == 16, "other parameters are other answers"


def test_wrong_use(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="no checker says what is right"):
        RationalesOptions(select="answer")
    with pytest.raises(ValidationError, match="all samples are equal"):
        RationalesOptions(select="vote", temperature=0, samples=2)
    with pytest.raises(ValidationError, match="no group called answer"):
        RationalesOptions(select="vote", answer_pattern="Answer: (.*)")
    (tmp_path / "deaf.j2").write_text("Think hard.\nSteps:")
    (problem,) = RationalesOptions(select="vote", template=str(tmp_path / "deaf.j2")).problems()
    assert problem.startswith("template: ") and "does not show the question" in problem
    (tmp_path / "slip.j2").write_text("{{ questoin }}")
    with pytest.raises(DataError, match="questoin"):
        PromptTemplate(tmp_path / "slip.j2")

    class Silent:
        def identity(self) -> str:
            return "silent"

    with pytest.raises(SignalError, match="silent has no generate"):
        make(Silent())
    with pytest.raises(DataError, match="has no question"):
        list(make(Scripted()).synthesize([{"text": "x", "document": "d"}], tmp_path))
    with pytest.raises(DataError, match="document d has no answer"):
        list(make(Scripted()).synthesize([{"question": "1 + 1?", "document": "d"}], tmp_path))


RECORD = {"question": "1 + 2 + 4?", "rationale": "1 + 2 = 3. 3 + 4 = 7.", "answer": "7", "document": "d", "weight": 0.5}


def texts(record: dict[str, Any]) -> list[tuple[str, bool, float]]:
    return [(part["text"], part["predict"], part.get("weight", 1.0)) for part in record["parts"]]


def test_forms() -> None:
    label, why = RationaleTasks(RationaleTasksOptions(rationale_weight=2.0)).transform(RECORD)
    assert texts(label) == [("[label] 1 + 2 + 4?\n", False, 1.0), ("7", True, 1.0)]
    assert texts(why)[1:] == [("1 + 2 = 3. 3 + 4 = 7.", True, 1.0)]
    assert (label["weight"], why["weight"], label["domain"], why["domain"]) == (0.5, 1.0, "label", "rationale")
    (one,) = RationaleTasks(RationaleTasksOptions(form="rationale-then-answer", given_steps=1)).transform(RECORD)
    assert texts(one)[1:] == [("1 + 2 = 3. ", False, 1.0), ("3 + 4 = 7.", True, 1.0), (" Answer: 7", True, 1.0)]
    (last,) = RationaleTasks(RationaleTasksOptions(form="rationale-then-answer", given_steps=9)).transform(RECORD)
    assert texts(last)[2][0] == "3 + 4 = 7.", "one step is always left"
    (only,) = RationaleTasks(RationaleTasksOptions(form="answer-only")).transform({**RECORD, "rationale": None})
    assert texts(only)[-1][0] == "7"
    with pytest.raises(DataError, match="document d has no rationale"):
        RationaleTasks(RationaleTasksOptions()).transform({**RECORD, "rationale": " "})


def test_key_points_weigh_more_and_lose_no_text() -> None:
    options = RationaleTasksOptions(form="rationale-then-answer", key_points=KeyPoints(weight=3.0))
    (record,) = RationaleTasks(options).transform(RECORD)
    parts = texts(record)[1:-1]
    assert "".join(text for text, _, _ in parts) == RECORD["rationale"]
    assert all((weight == 3.0) == any(c in "0123456789+=" for c in text) for text, _, weight in parts)
