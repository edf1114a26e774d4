"""Options of ``attention-labels``. No torch import."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from distill_core.options import ObjectiveOptions


class AttentionLabelsOptions(ObjectiveOptions):
    """Options of ``attention-labels``."""

    field: str = Field(
        default="attention", description="field of the records with the label; name it in data.train.keep as well"
    )
    heads: Literal["auto", "match", "mean"] = Field(
        default="auto",
        description="head by head (match), or the averages over the heads of both sides (mean); auto: head by head "
        "where the numbers are equal",
    )
