"""Options of the samplers. No torch import."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field, PositiveFloat, PositiveInt, field_validator

from distill_core.options import Options
from distill_core.plugin import Needs

TARGETS = Needs(signals=frozenset({"targets"}), targets=("exact",), temperatures=(1.0,))


class CurriculumOptions(Options):
    """Options of ``curriculum``."""

    by: Literal["length", "record", "student-loss", "teacher-loss"] = Field(
        default="length",
        description="what makes a sequence hard: its tokens, the record's `difficulty`, or the mean cross-entropy of "
        "the initial student or of the live teacher, measured once before the first step",
    )
    start_share: float = Field(default=0.2, gt=0, le=1, description="easiest share of the data at the first step")
    until: float = Field(default=0.5, gt=0, le=1, description="share of the run after which all data is used")
    pacing: Literal["root", "linear"] = Field(
        default="root", description="how the share grows: linear, or fast first (the square grows linearly)"
    )
    hardest_first: bool = Field(default=False, description="the other way round, for comparison")
    batch_sequences: PositiveInt = Field(default=8, description="sequences per forward pass of the measurement")

    def needs(self, declared: Needs) -> Needs:
        """The teacher is asked only where its loss is the difficulty."""
        return TARGETS if self.by == "teacher-loss" else declared


class DomainReweightingOptions(Options):
    """Options of ``domain-reweighting``."""

    every_steps: PositiveInt = Field(default=10, description="optimizer steps between measurements")
    probe_sequences: PositiveInt = Field(
        default=8, description="sequences of each domain that are measured and never trained on"
    )
    gap_nat: PositiveFloat = Field(
        default=0.5, description="a domain whose gap is so much larger is drawn e times as often, in nat per token"
    )
    smoothing: float = Field(default=0.5, ge=0, lt=1, description="share of the old probabilities that stays")
    prior_share: float = Field(
        default=0.2, ge=0, le=1, description="share drawn by the prior whatever the gaps say, so that none dies out"
    )
    prior: dict[str, PositiveFloat] | None = Field(
        default=None, description="weight of each domain before anything is measured; default: its sequences"
    )
    teacher_loss_nat: dict[str, float] | None = Field(
        default=None, description="the teacher's loss on each domain, nat per token; default: the live teacher's"
    )
    batch_sequences: PositiveInt = Field(default=8, description="sequences per forward pass of the measurement")

    @field_validator("teacher_loss_nat")
    @classmethod
    def _finite(cls, losses: dict[str, float] | None) -> dict[str, float] | None:
        for domain, loss in (losses or {}).items():
            if not (math.isfinite(loss) and loss >= 0):
                raise ValueError(f"the loss of {domain!r} is {loss}; expected a number of at least 0, nat per token")
        return losses

    def needs(self, declared: Needs) -> Needs:
        """The teacher is asked only where its losses are not given."""
        return TARGETS if self.teacher_loss_nat is None else declared
