"""Options of the evaluator ``training-influence``; torch-free."""

from __future__ import annotations

from pydantic import Field, PositiveInt

from distill_core.options import Options


class TrainingInfluenceOptions(Options):
    """Options of ``training-influence``."""

    models: list[str] = Field(
        default_factory=lambda: ["student"], min_length=1, description="models whose training is looked at, by name"
    )
    sequences: PositiveInt = Field(default=64, description="training sequences judged at most, drawn by the seed")
    held_out: PositiveInt = Field(
        default=64, description="held-out sequences at most, one of each document before a second of any"
    )
    layers: str | None = Field(
        default=None,
        description="regular expression on the names of linear layers whose gradients count; default: all but the head",
    )
    shown: PositiveInt = Field(default=12, description="examples listed at either end")
    batch_sequences: PositiveInt = Field(default=8, description="training sequences per pass")
