"""Options of the evaluators that let models solve questions; torch-free."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, field_validator, model_validator

from distill_core.options import CheckerRef, regular_expression
from distill_evaluation.asking_options import AskOptions, QuestionPrompt, QuestionsOptions

CORRUPTIONS = ("none", "truncated", "shuffled", "foreign")


class PassAtKOptions(QuestionsOptions):
    """Options of ``pass-at-k``."""

    checker: CheckerRef = Field(description="says whether an answer is right: its score is 1")
    way: AskOptions = Field(default_factory=AskOptions, description="how the questions are asked")
    samples: PositiveInt = Field(default=8, description="answers drawn per question")
    k: list[PositiveInt] = Field(default_factory=lambda: [1, 4], min_length=1, description="numbers of tries")
    temperature: PositiveFloat = Field(default=0.8, description="at which answers are drawn")
    seed: NonNegativeInt = Field(default=0, description="seed of what is drawn, the same for every model")

    @model_validator(mode="after")
    def _enough_samples(self) -> PassAtKOptions:
        if max(self.k) > self.samples:
            raise ValueError(f"k = {max(self.k)} tries need as many samples, but samples is {self.samples}")
        return self


class ChainOptions(QuestionsOptions):
    """How a chain of steps is asked for and taken apart."""

    prompt: QuestionPrompt = Field(
        default="[rationale] {question}\n", description="the prompt; {question} stands for it"
    )
    answer_lead: str = Field(default="Answer:", min_length=1, description="what stands between chain and answer")
    step_end: str = Field(default=r"(?<=[.;])\s+|\n+", description="regular expression of what separates steps")
    max_chain_tokens: PositiveInt = Field(default=64, description="tokens of a chain at most")

    @field_validator("step_end")
    @classmethod
    def _pattern(cls, pattern: str) -> str:
        regular_expression(pattern)
        return pattern


class ChainCorruptionOptions(ChainOptions):
    """Options of ``chain-corruption``."""

    checker: CheckerRef = Field(description="says whether an answer is right")
    chains: Literal["own", "record"] = Field(
        default="own", description="own: the model writes the chain; record: the field `rationale` of the question"
    )
    corruptions: list[Literal["none", "truncated", "shuffled", "foreign"]] = Field(
        default_factory=lambda: list(CORRUPTIONS),  # type: ignore[arg-type]
        description="none: no chain; truncated: its first half; shuffled: its steps; foreign: another question's",
    )
    max_answer_tokens: PositiveInt = Field(default=16, description="tokens of an answer at most")
    seed: NonNegativeInt = Field(default=0, description="seed of the shuffling")


class StepValidityOptions(ChainOptions):
    """Options of ``step-validity``."""
