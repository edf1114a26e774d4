"""Options of ``sequence-kd``. No torch import."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, NonNegativeFloat, PositiveInt, field_validator

from distill_core.options import Options


class SequenceKDOptions(Options):
    """Options of ``sequence-kd``."""

    teacher: str | None = Field(default=None, description="which teacher of the run file writes; default: the first")
    max_new_tokens: PositiveInt = Field(default=128, description="longest completion, in the teacher's tokens")
    temperature: NonNegativeFloat = Field(default=0.0, description="0: the most likely token each time; else sampled")
    top_p: float = Field(
        default=1.0, gt=0, le=1, description="draw from the smallest set of tokens with this probability; 1: all"
    )
    stop: list[str] = Field(default_factory=list, description="texts that end a completion; they are not part of it")
    samples: PositiveInt = Field(default=1, description="completions per prompt; more than one needs a temperature")
    prefix_words: PositiveInt | None = Field(
        default=None, description="words of a plain text that serve as its prompt; needed for records with `text`"
    )
    unfinished: Literal["keep", "drop"] = Field(
        default="keep", description="completions cut at max_new_tokens: kept without an end token, or dropped"
    )
    shard_prompts: PositiveInt = Field(
        default=64, description="completions written and kept at a time; an interruption loses one shard"
    )

    @field_validator("stop")
    @classmethod
    def _not_empty(cls, stop: list[str]) -> list[str]:
        if "" in stop:
            raise ValueError("an empty text would end every completion at once: leave it out")
        return stop

    def problems(self) -> list[str]:
        """Several samples that would all be the same."""
        if self.samples > 1 and self.temperature == 0:
            return [f"samples: {self.samples} completions at temperature 0 are one and the same: set a temperature"]
        return []
