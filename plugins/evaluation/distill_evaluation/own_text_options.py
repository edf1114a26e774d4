"""Options of the evaluator ``own-text``; torch-free."""

from __future__ import annotations

from pydantic import Field, NonNegativeInt, PositiveInt

from distill_core.options import Options


class OwnTextOptions(Options):
    """Options of ``own-text``."""

    prompts: PositiveInt = Field(
        default=64, description="held-out sequences continued at most, one of each document before a second of any"
    )
    prefix_tokens: PositiveInt = Field(
        default=16, description="prompt of a plain text, in tokens; a record with a prompt of its own keeps that"
    )
    max_new_tokens: PositiveInt = Field(default=32, description="tokens written at most after each prompt")
    seed: NonNegativeInt = Field(default=0, description="seed of what is drawn, the same for every model")
