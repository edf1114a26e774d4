"""How evaluators ask held-out questions, and which; torch-free."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field, PositiveInt, field_validator

from distill_core.options import Options, SourceRef, with_group


def _shows_the_question(prompt: str) -> str:
    if "{question}" not in prompt:
        raise ValueError(f"{prompt!r} does not show the question: write {{question}} where it belongs")
    return prompt


QuestionPrompt = Annotated[str, AfterValidator(_shows_the_question)]
"""A prompt in which ``{question}`` stands for the question."""


class AskOptions(Options):
    """One way of asking."""

    prompt: QuestionPrompt = Field(default="{question}\n", description="the prompt; {question} stands for the question")
    answer_pattern: str | None = Field(
        default=None,
        description="regular expression with a group `answer`, searched in what is written (its last match counts); "
        "default: the first line",
    )
    max_new_tokens: PositiveInt = Field(default=16, description="tokens written at most")

    @field_validator("answer_pattern")
    @classmethod
    def _has_answer(cls, pattern: str | None) -> str | None:
        return None if pattern is None else with_group(pattern, "answer")


class QuestionsOptions(Options):
    """Where questions come from and how many are asked."""

    questions: SourceRef = Field(description="source of held-out records with question and answer")
    limit: PositiveInt | None = Field(default=None, description="the first so many questions; default: all")
    batch_questions: PositiveInt = Field(default=16, description="questions answered at a time")
