"""Options of the row weights. No torch import."""

from __future__ import annotations

from pydantic import Field, NonNegativeFloat

from distill_core.options import Options


class DomainsOptions(Options):
    """Options of ``domains``."""

    weights: dict[str, NonNegativeFloat] = Field(min_length=1, description="weight by the record's `domain`")
    default: NonNegativeFloat = Field(default=1.0, description="weight of every other domain")


class ProgressiveStepsOptions(Options):
    """Options of ``progressive-steps``."""

    start: float = Field(default=0.25, gt=0, le=1, description="share of the steps, from the end, predicted at first")
    whole_after: float = Field(default=0.5, gt=0, le=1, description="share of training after which all steps count")
    step_end: str = Field(default=".", min_length=1, description="a token whose text holds this ends a step")
    domain: str | None = Field(default=None, description="only sequences of this domain; default: all")
