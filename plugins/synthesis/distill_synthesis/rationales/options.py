"""Options of the synthesizer ``rationales`` and of the transform ``rationale-tasks``. No torch import."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, field_validator, model_validator

from distill_core.errors import DataError
from distill_core.options import CheckerRef, Options


class Example(Options):
    """A worked question, shown to the teacher."""

    question: str = Field(description="the question")
    rationale: str = Field(description="the steps")
    answer: str = Field(description="the answer")


class RationalesOptions(Options):
    """Options of ``rationales``."""

    teacher: str | None = Field(default=None, description="which teacher of the run file writes; default: the first")
    teachers: dict[str, NonNegativeFloat] | None = Field(
        default=None,
        min_length=1,
        description="several teachers of the run file that write for every question, each with the weight of its "
        "rationales in the loss; in place of `teacher`",
    )
    examples: list[Example] = Field(default_factory=list, description="worked questions, shown before each question")
    template: str | None = Field(
        default=None,
        description="Jinja file of the prompt, with the variables question, examples and hint; default: "
        "question, steps, answer, each on a line of its own",
    )
    samples: PositiveInt = Field(default=4, description="rationales written per question, by each teacher")
    temperature: NonNegativeFloat = Field(default=0.7, description="of the samples; 0 only with samples: 1")
    top_p: float = Field(default=1.0, gt=0, le=1, description="samples are drawn from this much probability")
    max_new_tokens: PositiveInt = Field(default=96, description="tokens of rationale and answer together")
    stop: list[str] = Field(
        default_factory=lambda: ["\nQuestion:", "\n\n"], description="texts that end what is written"
    )
    answer_pattern: str = Field(
        default=r"\n\s*Answer:\s*(?P<answer>[^\n]+)",
        description="regular expression of the answer in what is written; the group `answer` is the answer, what "
        "stands before it is the rationale",
    )
    checker: CheckerRef | None = Field(default=None, description="judges answers; also says which ones are equal")
    accept: float = Field(default=1.0, ge=0, le=1, description="smallest score of an answer that is right")
    select: Literal["answer", "vote", "answer-and-vote", "all"] = Field(
        default="answer",
        description="which rationales stay. answer: with the right answer, by the checker; vote: with the answer that "
        "most samples give; answer-and-vote: both; all: every one with an answer",
    )
    min_votes: PositiveInt = Field(default=1, description="vote: samples that must agree")
    keep: PositiveInt = Field(
        default=4, description="different rationales kept per question and teacher, shortest first"
    )
    hint_failed: bool = Field(
        default=False,
        description="questions without an accepted sample are asked once more, the answer given as a hint",
    )
    weight: Literal["question", "rationale"] = Field(
        default="question",
        description="whether each question counts 1, however many rationales it has, or each rationale",
    )
    window: PositiveInt = Field(default=64, description="answers asked for at a time")

    @field_validator("answer_pattern")
    @classmethod
    def _has_answer(cls, pattern: str) -> str:
        try:
            groups = re.compile(pattern).groupindex
        except re.error as error:
            raise ValueError(f"{pattern!r} is no regular expression: {error}") from None
        if "answer" not in groups:
            raise ValueError(f"{pattern!r} has no group called answer: write the answer's part as (?P<answer>...)")
        return pattern

    @model_validator(mode="after")
    def _consistent(self) -> RationalesOptions:
        if self.checker is None and (self.select in ("answer", "answer-and-vote") or self.hint_failed):
            raise ValueError(
                f"select: {self.select} rejects rationales by their answer, but no checker says what is right: add "
                "checker: {use: numeric-answer} (or exact-answer), or take select: vote, which needs none"
            )
        if self.samples > 1 and self.temperature == 0:
            raise ValueError(
                f"samples is {self.samples} at temperature 0, where all samples are equal: set temperature above 0 "
                "or samples: 1"
            )
        if self.teacher is not None and self.teachers is not None:
            raise ValueError(
                f"teacher is {self.teacher} and teachers are {', '.join(self.teachers)}: name one or several"
            )
        written = self.samples * len(self.teachers or [self.teacher])
        if self.min_votes > written:
            raise ValueError(f"min_votes is {self.min_votes}, but there are only {written} samples")
        return self

    def problems(self) -> list[str]:
        """A template that is not there, is no Jinja, or never shows the question."""
        from distill_synthesis.rationales.template import PromptTemplate

        try:
            PromptTemplate(None if self.template is None else Path(self.template).expanduser())
        except DataError as error:
            return [f"template: {error}"]
        return []


class KeyPoints(Options):
    """Tokens of a rationale that count more."""

    pattern: str = Field(default=r" ?[=+\-*/]| ?\d+", description="regular expression of the key points' text")
    weight: PositiveFloat = Field(default=2.0, description="their weight in the loss; the rest has 1")

    @field_validator("pattern")
    @classmethod
    def _regular_expression(cls, pattern: str) -> str:
        try:
            compiled = re.compile(pattern)
        except re.error as error:
            raise ValueError(f"{pattern!r} is no regular expression: {error}") from None
        if compiled.fullmatch(""):
            raise ValueError(f"{pattern!r} matches the empty text: ask for at least one character")
        return pattern


class RationaleTasksOptions(Options):
    """Options of ``rationale-tasks``."""

    form: Literal["multi-task", "rationale-then-answer", "answer-only"] = Field(
        default="multi-task",
        description="multi-task: two records, [label] question -> answer and [rationale] question -> rationale; "
        "rationale-then-answer: one record; answer-only: one record without the rationale",
    )
    rationale_weight: NonNegativeFloat = Field(
        default=1.0, description="multi-task: weight of the rationale task (lambda of the loss)"
    )
    rationale_answer: bool = Field(
        default=False, description="multi-task: the rationale task also writes the answer, after the rationale"
    )
    label_prefix: str = Field(default="[label] ", description="before the question where the answer is asked for")
    rationale_prefix: str = Field(default="[rationale] ", description="before it where the rationale is asked for")
    answer_lead: str = Field(default=" Answer: ", description="between a rationale and the answer after it")
    question_end: str = Field(default="\n", description="after the question")
    key_points: KeyPoints | None = Field(default=None, description="tokens of the rationale that count more")
    given_steps: int = Field(
        default=0, ge=0, description="so many first steps of the rationale are given, not predicted; one is always left"
    )
    step_end: str = Field(default=r"(?<=[.;])\s+|\n+", description="regular expression of what stands between steps")
