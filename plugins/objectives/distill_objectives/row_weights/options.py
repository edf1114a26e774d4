"""Options of the row weights. No torch import."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, NonNegativeFloat

from distill_core.options import Options
from distill_core.plugin import Needs


class UncertaintyWeightOptions(Options):
    """What both uncertainty weights understand."""

    beta: float = Field(default=1.0, gt=0, description="sharpness: how fast the weight falls with the uncertainty")
    prefer: Literal["certain", "uncertain"] = Field(
        default="certain", description="which rows count: certain: exp(-beta u); uncertain: 1 - exp(-beta u)"
    )


class TeacherEntropyOptions(UncertaintyWeightOptions):
    """Options of ``teacher-entropy``."""


class EnsembleVarianceOptions(UncertaintyWeightOptions):
    """Options of ``ensemble-variance``."""

    signal: Literal["ensemble_variance", "mutual_information"] = Field(
        default="ensemble_variance", description="which measure of the teachers' disagreement"
    )

    def needs(self, declared: Needs) -> Needs:
        return Needs(signals=declared.signals | {self.signal}, targets=declared.targets)


class DomainsOptions(Options):
    """Options of ``domains``."""

    weights: dict[str, NonNegativeFloat] = Field(min_length=1, description="weight by the record's `domain`")
    default: NonNegativeFloat = Field(default=1.0, description="weight of every other domain")


class WritersOptions(Options):
    """Options of ``writers``."""

    student: NonNegativeFloat = Field(default=1.0, description="weight of sequences that the student wrote")
    teacher: NonNegativeFloat = Field(default=1.0, description="weight of sequences that the teacher wrote")
    data: NonNegativeFloat = Field(default=1.0, description="weight of the data's own sequences")


class ProgressiveStepsOptions(Options):
    """Options of ``progressive-steps``."""

    start: float = Field(default=0.25, gt=0, le=1, description="share of the steps, from the end, predicted at first")
    whole_after: float = Field(default=0.5, gt=0, le=1, description="share of training after which all steps count")
    step_end: str = Field(default=".", min_length=1, description="a token whose text holds this ends a step")
    domain: str | None = Field(default=None, description="only sequences of this domain; default: all")
