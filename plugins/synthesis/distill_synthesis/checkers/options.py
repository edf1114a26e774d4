"""Options of the checkers. No torch import."""

from __future__ import annotations

from pydantic import Field

from distill_core.options import Options


class ExactAnswerOptions(Options):
    """Options of ``exact-answer``."""

    field: str = Field(default="answer", description="field of the record with the right answer")
    ignore_case: bool = Field(default=True, description="capital letters do not matter")
    ignore_punctuation: bool = Field(
        default=True, description="full stops, commas, quotes and brackets around the answer do not matter"
    )


class NumericAnswerOptions(Options):
    """Options of ``numeric-answer``."""

    field: str = Field(default="answer", description="field of the record with the right number")
    tolerance: float = Field(default=0.0, ge=0, description="largest difference that still counts as right")


class ReasoningGymAnswerOptions(Options):
    """Options of the checker ``reasoning-gym``."""

    def problems(self) -> list[str]:
        """A library that is not there."""
        from distill_synthesis.questions.reasoning_gym_tasks import library_problems

        return library_problems()
