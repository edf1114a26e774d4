"""Options of ``universal-logit``. No torch import."""

from __future__ import annotations

from pydantic import Field, PositiveInt

from distill_core.options import ObjectiveOptions


class UniversalLogitOptions(ObjectiveOptions):
    """Options of ``universal-logit``."""

    k: PositiveInt = Field(
        default=64, description="largest probabilities that are compared one by one, the rest as one outcome"
    )
