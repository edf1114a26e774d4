"""Sources of questions and checkers."""

from __future__ import annotations

from itertools import islice

import pytest

from distill_core.errors import DataError
from distill_synthesis.checkers.exact_answer import ExactAnswer
from distill_synthesis.checkers.numeric_answer import NumericAnswer, last_number
from distill_synthesis.checkers.options import ExactAnswerOptions, NumericAnswerOptions, ReasoningGymAnswerOptions
from distill_synthesis.questions.arithmetic import Arithmetic
from distill_synthesis.questions.options import ArithmeticOptions, ReasoningGymOptions


@pytest.mark.parametrize("style", ["story", "expression"])
def test_worked_steps_are_right(style: str) -> None:
    options = ArithmeticOptions(count=300, max_steps=4, operations=["add", "subtract", "multiply"], style=style)
    records = list(Arithmetic(options).records())
    assert len({record["question"] for record in records}) == 300
    for record in records:
        value = None
        for step in record["rationale"].rstrip(".").split(". "):
            left, _, right = step.partition(" = ")
            assert value is None or left.split()[0] == value, record
            assert eval(left) == int(right) >= 0
            value = right
        assert value == record["answer"]
        if style == "expression":
            assert eval(record["question"].removeprefix("What is ").rstrip("?")) == int(value)


def test_splits_share_no_question_whatever_the_seed() -> None:
    def questions(split: str, seed: int) -> set[str]:
        return {r["question"] for r in Arithmetic(ArithmeticOptions(count=200, seed=seed, split=split)).records()}

    assert not (questions("train", 0) | questions("train", 1)) & questions("held-out", 2)
    assert questions("train", 0) == questions("train", 0) != questions("train", 1)


def test_too_many_questions_are_refused() -> None:
    options = ArithmeticOptions(count=100, style="expression", largest=3, max_steps=1)
    with pytest.raises(DataError, match="count is 100, but only"):
        list(Arithmetic(options).records())


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("1,200", 1200),
        ("so 7 + 5 = 12.", 12),
        ("-3", -3),
        ("3, 4", 4),
        ("3,4", 4),
        ("\u22122", -2),
        ("x", None),
        ("1/0", None),
    ],
)
def test_last_number(text: str, number: int | None) -> None:
    assert last_number(text) == number


def test_checkers() -> None:
    numeric = NumericAnswer(NumericAnswerOptions())
    assert numeric.check({"answer": "0.5"}, "1/2").score == 1 and numeric.canonical("0.50") == numeric.canonical(".5")
    assert numeric.check({"answer": "0.5"}, "half").reason == "no number"
    assert NumericAnswer(NumericAnswerOptions(tolerance=0.1)).check({"answer": "3.1"}, "3.15").score == 1
    with pytest.raises(DataError, match="holds no number: take the checker exact-answer"):
        numeric.check({"answer": "blue"}, "3")
    with pytest.raises(DataError, match="no answer in the field 'answer'"):
        numeric.check({"question": "?"}, "3")
    assert ExactAnswer(ExactAnswerOptions(ignore_case=False)).check({"answer": "Paris"}, "paris").score == 0


def test_reasoning_gym_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("distill_synthesis.questions.reasoning_gym_tasks.find_spec", lambda name: None)
    for options in (ReasoningGymOptions(task="chain_sum"), ReasoningGymAnswerOptions()):
        (problem,) = options.problems()
        assert "pip install 'distill-synthesis[reasoning-gym]'" in problem


@pytest.mark.assets
def test_reasoning_gym_tasks_are_scored_by_their_own_scorer() -> None:
    from distill_synthesis.checkers.reasoning_gym_answer import ReasoningGymAnswer
    from distill_synthesis.questions.reasoning_gym_source import ReasoningGym

    checker = ReasoningGymAnswer(ReasoningGymAnswerOptions())
    for task in ("chain_sum", "gsm_symbolic", "family_relationships"):
        source = ReasoningGym(ReasoningGymOptions(task=task, count=5))
        for record in islice(source.records(), 5):
            assert checker.check(record, record["answer"]).score == 1
            assert checker.check(record, "no answer at all").score < 1
        assert source.fingerprint() == ReasoningGym(ReasoningGymOptions(task=task, count=5)).fingerprint()
    (problem,) = ReasoningGymOptions(task="chain_summ").problems()
    assert "chain_sum" in problem
    (problem,) = ReasoningGymOptions(task="chain_sum", config={"min_terms": -3}).problems()
    assert "min_terms must be positive" in problem
    with pytest.raises(DataError, match="does not come from the source reasoning-gym"):
        checker.check({"answer": "1"}, "1")
