"""Options of the row weights. No torch import."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

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
