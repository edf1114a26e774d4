"""Options of the evaluator ``diversity``; torch-free."""

from __future__ import annotations

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from distill_core.options import ModelSource, Options


class DiversityOptions(Options):
    """Options of ``diversity``."""

    n: list[PositiveInt] = Field(
        default_factory=lambda: [1, 2, 3], min_length=1, description="lengths of n-grams of distinct-n"
    )
    texts: PositiveInt = Field(default=100, ge=2, description="documents looked at, the first so many of each set")
    words_per_text: PositiveInt = Field(
        default=200, description="first words of each text that are looked at, so that lengths do not decide"
    )
    encoder: ModelSource | None = Field(
        default=None,
        description="encoder (hub id, directory or package:NAME/DIRECTORY) for similarities; default: hashed words and "
        "pairs of words",
    )
    fields: list[str] = Field(
        default_factory=list,
        description="fields of the training records whose variety is measured, e.g. language and register",
    )
    prefix_tokens: PositiveInt = Field(
        default=16, description="prompt of a plain text, in tokens; a record with a prompt of its own keeps that"
    )
    max_new_tokens: PositiveInt = Field(default=32, description="tokens written at most after each prompt")
    temperature: PositiveFloat = Field(default=1.0, description="at which outputs are drawn")
    seed: NonNegativeInt = Field(default=0, description="seed of what is drawn, the same for every model")

    def files(self) -> list[str]:
        """What the result depends on beside the options."""
        return [] if self.encoder is None else [self.encoder]
