"""Options of the evaluator ``answers``; torch-free."""

from __future__ import annotations

import re

from pydantic import Field, PositiveInt, field_validator, model_validator

from distill_core.options import CheckerRef, Options, SourceRef


class AskOptions(Options):
    """One way of asking."""

    prompt: str = Field(default="{question}\n", description="the prompt; {question} stands for the question")
    answer_pattern: str | None = Field(
        default=None,
        description="regular expression with a group `answer`, searched in what is written (its last match counts); "
        "default: the first line",
    )
    max_new_tokens: PositiveInt = Field(default=16, description="tokens written at most")

    @field_validator("prompt")
    @classmethod
    def _shows_the_question(cls, prompt: str) -> str:
        if "{question}" not in prompt:
            raise ValueError(f"{prompt!r} does not show the question: write {{question}} where it belongs")
        return prompt

    @field_validator("answer_pattern")
    @classmethod
    def _has_answer(cls, pattern: str | None) -> str | None:
        if pattern is None:
            return None
        try:
            groups = re.compile(pattern).groupindex
        except re.error as error:
            raise ValueError(f"{pattern!r} is no regular expression: {error}") from None
        if "answer" not in groups:
            raise ValueError(f"{pattern!r} has no group called answer: write (?P<answer>...)")
        return pattern


def _ways() -> dict[str, AskOptions]:
    return {
        "direct": AskOptions(prompt="[label] {question}\n"),
        "rationale": AskOptions(
            prompt="[rationale] {question}\n", answer_pattern=r"Answer:\s*(?P<answer>[^\n]+)", max_new_tokens=64
        ),
    }


class AnswersOptions(Options):
    """Options of ``answers``."""

    questions: SourceRef = Field(description="source of held-out records with question and answer")
    checker: CheckerRef = Field(description="says whether an answer is right")
    ways: dict[str, AskOptions] = Field(
        default_factory=_ways, min_length=1, description="ways of asking by name; each is a metric"
    )
    trained_way: dict[str, str] = Field(
        default_factory=dict,
        description="which way a model was trained for, by its name; the metric answer_accuracy asks each in its own "
        "way; others are asked in the first one",
    )
    limit: PositiveInt | None = Field(default=None, description="the first so many questions; default: all")
    batch_questions: PositiveInt = Field(default=16, description="questions answered at a time")

    @model_validator(mode="after")
    def _known_ways(self) -> AnswersOptions:
        unknown = sorted(set(self.trained_way.values()) - set(self.ways))
        if unknown:
            raise ValueError(f"trained_way names {', '.join(unknown)}, but the ways are {', '.join(self.ways)}")
        return self
