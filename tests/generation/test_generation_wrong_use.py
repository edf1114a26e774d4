"""What a user of the generating synthesizers is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from distill_core.errors import DataError, SignalError
from distill_core.registry import get_registry
from distill_synthesis.generation import options as all_options
from distill_synthesis.generation.options import (
    AttributedPromptsOptions,
    BackTranslationOptions,
    EvolInstructOptions,
    MagpieOptions,
    RejectionSamplingOptions,
    SelfInstructOptions,
)
from distill_teachers.openai import OpenAITeacher
from distill_teachers.openai_options import OpenAIOptions
from tests.generation.scribe import Scribe, context, made

ATTRIBUTES = {"task": "a review", "attributes": {"length": ["short", "long"]}}


def built(name: str, teacher: Any, **options: Any) -> Any:
    synthesizer = get_registry().build("synthesizer", {"use": name, **options})
    synthesizer.build(context(teacher))
    return synthesizer


def test_a_teacher_that_cannot_write() -> None:
    with pytest.raises(SignalError, match=r"magpie asks a teacher for text, but object does not write .*hf, openai"):
        built("magpie", object())


def test_a_teacher_without_prices_under_a_budget_of_money() -> None:
    class Free(Scribe):
        most_spent = None  # type: ignore[assignment]

    with pytest.raises(SignalError, match=r"budget.cost is 2, but the teacher scribe@1 does not say what .* costs"):
        built("magpie", Free(lambda r: ""), budget={"cost": 2.0}, prefix="x")


def test_magpie_needs_a_template_or_a_prefix(tiny_tokenizer_dir: Path) -> None:
    from transformers import AutoTokenizer

    class Plain(Scribe):
        def tokenizer(self) -> Any:
            return AutoTokenizer.from_pretrained(tiny_tokenizer_dir)

    for teacher in (Plain(lambda r: ""), Scribe(lambda r: "")):
        with pytest.raises(SignalError, match=r"scribe@1 has none: give a `prefix` to go on with"):
            built("magpie", teacher)
    chat = OpenAITeacher(OpenAIOptions(model="m", base_url="http://127.0.0.1:1/v1", api_key_env=None))
    with pytest.raises(SignalError, match=r"but server:.* answers it: set endpoint: completions"):
        built("magpie", chat, prefix="Instruction:")
    with pytest.raises(ValidationError, match="an empty prefix cannot be gone on with"):
        MagpieOptions(prefix="")

    class Shouting:
        chat_template, bos_token = "x", None

        def apply_chat_template(self, turns: Any, tokenize: bool) -> str:
            return "".join(turn["content"].upper()[::-1] for turn in turns)

    class Odd(Scribe):
        def tokenizer(self) -> Any:
            return Shouting()

    with pytest.raises(SignalError, match="does not show the user's text as it is"):
        built("magpie", Odd(lambda r: ""))


@pytest.mark.parametrize("name", ["tokens", "cost", "rows"])
@pytest.mark.parametrize("value", [0, -1])
def test_a_budget_of_nothing(name: str, value: int) -> None:
    with pytest.raises(ValidationError, match=rf"a budget of {value} makes nothing: give more than 0, or leave it out"):
        MagpieOptions(budget={name: value})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Write it.", r"does not show text: write \{\{ text \}\} where it belongs"),
        ("{{ txt }}", r"uses txt; a prompt is given text"),
        ("{{ text", r"own.j2:1: no Jinja template"),
    ],
)
def test_a_template_that_cannot_be_used(tmp_path: Path, text: str, said: str) -> None:
    own = tmp_path / "own.j2"
    own.write_text(text)
    options = {"templates": {"back_translation": str(own)}}
    (problem,) = BackTranslationOptions(**options).problems()
    assert problem.startswith("templates.back_translation: ")
    with pytest.raises(DataError, match=said):
        built("back-translation", Scribe(lambda r: ""), **options)


def test_templates_that_are_not_there() -> None:
    with pytest.raises(ValidationError, match="templates names anser; the prompts here are answer"):
        MagpieOptions(templates={"anser": "x.j2"})
    (problem,) = MagpieOptions(templates={"answer": "/no/such/file.j2"}).problems()
    assert "cannot be read" in problem


def test_a_template_that_fails_says_so(tmp_path: Path) -> None:
    own = tmp_path / "own.j2"
    own.write_text("{{ text.nothing.more }}")
    with pytest.raises(DataError, match=r"own.j2: the template fails: 'str object' has no attribute 'nothing'"):
        made(
            "back-translation",
            Scribe(lambda r: "x"),
            tmp_path / "a",
            [{"text": "t"}],
            templates={"back_translation": str(own)},
        )


def test_records_that_lack_what_is_needed(tmp_path: Path) -> None:
    teacher = Scribe(lambda r: "x")
    with pytest.raises(DataError, match=r"evol-instruct: document d has no instruction; expected `prompt`"):
        made("evol-instruct", teacher, tmp_path, [{"text": "t", "document": "d"}])
    with pytest.raises(DataError, match=r"self-instruct begins with instructions, but data\.train\.source has no"):
        made("self-instruct", teacher, tmp_path)
    with pytest.raises(DataError, match=r"document d has no text in the field 'text'.*name the field with `field`"):
        made("back-translation", teacher, tmp_path, [{"prompt": "t", "document": "d"}])
    options = {"checker": {"use": "numeric-answer"}}
    with pytest.raises(DataError, match=r"document d has no question in the field 'question'.*with `field`"):
        made("rejection-sampling", teacher, tmp_path, [{"text": "t", "document": "d"}], **options)
    asked = len(teacher.asked)
    with pytest.raises(DataError, match=r"checker numeric-answer: document d has no answer in the field 'answer'"):
        made("rejection-sampling", teacher, tmp_path, [{"question": "1 + 1?", "document": "d"}], **options)
    assert len(teacher.asked) == asked, "it was paid for before the record was looked at"
    with pytest.raises(RuntimeError, match=r"magpie asks a teacher: call build\(ctx\) first"):
        list(get_registry().build("synthesizer", {"use": "magpie"}).synthesize([], tmp_path))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: AttributedPromptsOptions(task="x", attributes={"a": []}), "the attributes a have no values"),
        (lambda: AttributedPromptsOptions(task="x", attributes={}), "no attributes: every prompt would ask the same"),
        (lambda: AttributedPromptsOptions(**ATTRIBUTES, label_attributes={"b": {}}), "names b, which labels does not"),
        (lambda: BackTranslationOptions(score_pattern="Score: (.)"), "has no group called score"),
        (lambda: BackTranslationOptions(score_pattern="("), "is no regular expression"),
        (lambda: RejectionSamplingOptions(checker={"use": "x"}, temperature=0), "samples is 4 at temperature 0"),
        (lambda: RejectionSamplingOptions(checker={"use": "x"}, answer_pattern="x"), "has no group called answer"),
        (lambda: EvolInstructOptions(operations=[]), "at least 1 item"),
        (lambda: EvolInstructOptions(system="x", ask_as="text"), "system is the system's turn of a chat"),
        (lambda: SelfInstructOptions(instruction_per_request=2), "Extra inputs are not permitted"),
    ],
)
def test_options_that_make_no_sense(make: Any, said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        make()


def test_every_packaged_template_is_a_prompt_of_some_synthesizer() -> None:
    known = {
        name
        for model in vars(all_options).values()
        if isinstance(model, type) and issubclass(model, all_options.GenerationOptions)
        for name in model.PROMPTS
    }
    assert known == {path.stem for path in all_options.PROMPTS.glob("*.j2")}
