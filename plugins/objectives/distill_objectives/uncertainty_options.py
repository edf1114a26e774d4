"""Options of the objectives that read a teacher's uncertainty. No torch import."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, model_validator

from distill_core.options import ObjectiveOptions
from distill_core.plugin import Needs


class LabelPosteriorOptions(ObjectiveOptions):
    """Options of ``label-posterior``."""

    strength: NonNegativeFloat | Literal["ensemble"] = Field(
        default=1.0,
        description="observations that the teacher's prediction is worth, a; ensemble: read off the disagreement of "
        "several teachers, row by row",
    )
    least: NonNegativeFloat = Field(default=0.1, description="smallest strength read off an ensemble")
    most: PositiveFloat = Field(default=100.0, description="largest strength read off an ensemble")
    view: Literal["stored", "head"] = Field(
        default="stored", description="head: the exact head + tail view of a threshold sample"
    )

    @model_validator(mode="after")
    def _ordered(self) -> LabelPosteriorOptions:
        if self.least > self.most:
            raise ValueError(f"least {self.least} is larger than most {self.most}")
        return self

    def needs(self, declared: Needs) -> Needs:
        if self.strength != "ensemble":
            return Needs(signals=declared.signals, targets=declared.targets, temperatures=(1.0,))
        return Needs(declared.signals | {"ensemble_variance"}, targets=("exact",), temperatures=(1.0,))


class EnsembleDistributionOptions(ObjectiveOptions):
    """Options of ``ensemble-distribution``."""

    shift: float = Field(
        default=0.0,
        description="nat taken off the logits before they are log concentrations; a pretrained language model wants "
        "about its mean logsumexp minus the log of the precision to start from",
    )

    def needs(self, declared: Needs) -> Needs:
        return Needs(declared.signals | {"log_normalizer"}, targets=declared.targets, temperatures=(1.0,))
