"""Options of the sources of questions. No torch import."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, PositiveInt, model_validator

from distill_core.options import Options


class QuestionsOptions(Options):
    """How many questions, and from which side of the split."""

    count: PositiveInt = Field(default=1000, description="number of different questions")
    seed: int = Field(default=0, ge=0, description="seed of the generator")
    split: Literal["train", "held-out"] = Field(
        default="train",
        description="which questions: those of one split are never in the other, whatever the seed (hash of the text)",
    )


class ArithmeticOptions(QuestionsOptions):
    """Options of ``arithmetic``."""

    min_steps: PositiveInt = Field(default=1, le=8, description="fewest operations of a question")
    max_steps: PositiveInt = Field(default=3, le=8, description="most operations of a question")
    largest: int = Field(default=20, ge=2, le=1_000_000, description="largest number in a question")
    operations: list[Literal["add", "subtract", "multiply"]] = Field(
        default_factory=lambda: ["add", "subtract"],
        min_length=1,
        description="what happens in a step; multiply: by 2 to 5",
    )
    style: Literal["story", "expression"] = Field(
        default="story", description="story: a word problem; expression: numbers and signs, from left to right"
    )

    @model_validator(mode="after")
    def _ordered(self) -> ArithmeticOptions:
        if self.min_steps > self.max_steps:
            raise ValueError(f"min_steps {self.min_steps} lies above max_steps {self.max_steps}: nothing is in between")
        return self


class ReasoningGymOptions(QuestionsOptions):
    """Options of ``reasoning-gym``."""

    task: str = Field(description="name of a task of the library, e.g. chain_sum, gsm_symbolic, family_relationships")
    config: dict[str, Any] = Field(default_factory=dict, description="options of the task, as the library names them")

    def problems(self) -> list[str]:
        """A library that is not there, an unknown task, options the task refuses."""
        from distill_synthesis.questions.reasoning_gym_tasks import task_problems

        return task_problems(self.task, self.config)
