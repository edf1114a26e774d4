"""Options of the first-party objectives and schedules. No torch import."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt, field_validator, model_validator

from distill_core.options import DivergenceOptions, ObjectiveOptions, Options, ScheduleRef
from distill_core.plugin import Needs

MODE_PROPERTIES: dict[str, dict[str, bool]] = {
    "tail": {"zero_at_equality": True, "nonnegative": True, "lower_bound": True},
    "truncated": {"zero_at_equality": True, "nonnegative": False, "lower_bound": False},
    "renormalized": {"zero_at_equality": False, "nonnegative": True, "lower_bound": False},
    "renormalized-both": {"zero_at_equality": True, "nonnegative": True, "lower_bound": False},
}
"""What holds of ``forward-kl`` in each mode."""


class ForwardKLOptions(DivergenceOptions):
    """Options of ``forward-kl``."""

    mode: Literal["tail", "truncated", "renormalized", "renormalized-both"] = Field(
        default="tail",
        description="what happens to the mass outside the support: kept as one outcome (tail), left out (truncated), "
        "teacher renormalized, or both renormalized; sampled targets admit tail alone",
    )

    def needs(self, declared: Needs) -> Needs:
        needs = super().needs(declared)
        if self.mode == "tail":
            return needs
        targets = tuple(kind for kind in needs.targets if kind != "sampled")
        return Needs(signals=needs.signals, targets=targets, temperatures=needs.temperatures)

    def properties(self, declared: Mapping[str, bool]) -> Mapping[str, bool]:
        """What holds in this mode."""
        return {**declared, **MODE_PROPERTIES[self.mode]}


class ReverseKLOptions(DivergenceOptions):
    """Options of ``reverse-kl``."""


class TotalVariationOptions(DivergenceOptions):
    """Options of ``total-variation``."""


class JSDOptions(DivergenceOptions):
    """Options of ``jsd``."""

    beta: float = Field(default=0.5, description="weight of the teacher in the mixture, 0 < beta < 1")

    @field_validator("beta")
    @classmethod
    def _inside(cls, beta: float) -> float:
        if not 0 < beta < 1:
            raise ValueError(
                f"beta must lie strictly between 0 and 1, got {beta}: at 0 and at 1 this divergence is identically 0. "
                "Some implementations mean forward KL by 0 and reverse KL by 1: use forward-kl or reverse-kl"
            )
        return beta


class SkewOptions(DivergenceOptions):
    """Options of ``skew-forward-kl`` and ``skew-reverse-kl``."""

    alpha: float = Field(default=0.1, description="share of the first distribution in the mixture, 0 < alpha < 1")

    @field_validator("alpha")
    @classmethod
    def _inside(cls, alpha: float) -> float:
        if not 0 < alpha < 1:
            raise ValueError(
                f"alpha must lie strictly between 0 and 1, got {alpha}: at 0 the skew divergence is the plain one (use "
                "forward-kl or reverse-kl), at 1 it is identically 0"
            )
        return alpha


class AlphaBetaOptions(DivergenceOptions):
    """Options of ``alpha-beta``."""

    alpha: NonNegativeFloat = Field(default=0.2, description="exponent of the teacher, not negative")
    beta: NonNegativeFloat = Field(default=0.7, description="exponent of the student, not negative")

    @model_validator(mode="after")
    def _regular(self) -> AlphaBetaOptions:
        if self.alpha + self.beta == 0:
            raise ValueError(
                "alpha and beta are both 0: the divergence would be half the squared difference of log-probabilities, "
                "in which an outcome of probability 0 weighs without bound; give at least one of them a positive value"
            )
        return self

    def properties(self, declared: Mapping[str, bool]) -> Mapping[str, bool]:
        """A lower bound for certain where the exponents add up to 1."""
        return {**declared, "lower_bound": abs(self.alpha + self.beta - 1) < 1e-12}


class AdaptiveKLOptions(DivergenceOptions):
    """Options of ``adaptive-kl``."""

    head_mass: float = Field(
        default=0.5, gt=0, lt=1, description="teacher's probability up to which its most likely tokens are the head"
    )


class TokenWiseKLOptions(DivergenceOptions):
    """Options of ``token-wise-kl``."""


class DecoupledKDOptions(DivergenceOptions):
    """Options of ``decoupled-kd``."""

    alpha: NonNegativeFloat = Field(default=1.0, description="weight of the label against all other outcomes")
    beta: NonNegativeFloat = Field(default=8.0, description="weight of the other outcomes among themselves")

    @model_validator(mode="after")
    def _something(self) -> DecoupledKDOptions:
        if self.alpha == 0 and self.beta == 0:
            raise ValueError("alpha and beta are both 0, so the loss is 0: give at least one of them a positive value")
        return self


class TailAwareKLOptions(DivergenceOptions):
    """Options of ``tail-aware-kl``."""

    modes: PositiveInt = Field(
        default=10, description="most likely tokens taken one by one; the support must hold more than these"
    )
    beta: NonNegativeFloat = Field(default=2.0, description="weight of the outcomes beyond the modes among themselves")
    mean_tail_mass: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="beta is divided by this: the teacher's mean probability beyond its modes on the data; null: by 1",
    )

    @classmethod
    def example(cls, directory: Path) -> TailAwareKLOptions:
        """Few modes, for supports of a few ids."""
        return cls(modes=1)


class LogitDifferencesOptions(DivergenceOptions):
    """Options of ``logit-differences``."""

    top_k: int = Field(default=8, ge=2, description="most likely tokens whose logits are compared in pairs")
    led: Literal["both", "teacher", "student"] = Field(
        default="both", description="whose most likely tokens, and in whose order: once each, or one of the two"
    )


class InterpolatedSupportKLOptions(DivergenceOptions):
    """Options of ``interpolated-support-kl``."""

    interpolation: float | ScheduleRef = Field(
        default=ScheduleRef.model_validate({"use": "linear", "start": 0.4, "end": 1.0}),
        description="way from the student (0) to the teacher (1): a number, or a schedule",
    )

    @field_validator("interpolation")
    @classmethod
    def _inside(cls, interpolation: float | ScheduleRef) -> float | ScheduleRef:
        if isinstance(interpolation, ScheduleRef):
            given = {name: interpolation.options.get(name) for name in ("start", "end", "value")}
        else:
            given = {"interpolation": interpolation}
        for name, value in given.items():
            if isinstance(value, (int, float)) and not 0 <= value <= 1:
                raise ValueError(f"{name} must lie between 0 (the student) and 1 (the teacher), got {value}")
        return interpolation


class CrossEntropyOptions(ObjectiveOptions):
    """Options of ``cross-entropy``."""

    label_smoothing: float = Field(
        default=0.0, ge=0, lt=1, description="share of the label's mass spread evenly over the whole head"
    )
    z_loss: NonNegativeFloat = Field(default=0.0, description="coefficient of logsumexp(logits)^2")


class ConstantOptions(Options):
    """Options of ``constant``."""

    value: float = Field(description="the value at every step")
    values: list[float] | None = Field(
        default=None, min_length=1, description="values that may occur; has to hold value"
    )

    @model_validator(mode="after")
    def _listed(self) -> ConstantOptions:
        if self.values is not None and self.value not in self.values:
            raise ValueError(f"value {self.value} is not among values {self.values}")
        return self


class RampOptions(Options):
    """Options of ``linear`` and ``cosine``."""

    start: float = Field(description="value at the first step")
    end: float = Field(description="value at the last step")
    warmup_steps: NonNegativeInt = Field(default=0, description="steps that stay at start before the way to end begins")
    values: list[float] | None = Field(
        default=None,
        min_length=1,
        description="round to the nearest of these; a temperature lists those that were captured",
    )


class ExponentialOptions(RampOptions):
    """Options of ``exponential``."""

    @model_validator(mode="after")
    def _one_sign(self) -> ExponentialOptions:
        if self.start * self.end <= 0:
            raise ValueError(
                f"start {self.start} and end {self.end} must both be above 0 or both below: a geometric way never "
                "reaches or crosses 0; use linear or cosine"
            )
        return self


class StepOptions(Options):
    """Options of ``step``."""

    values: list[float] = Field(min_length=1, description="the values in order; the last one stays")
    boundaries: list[float] = Field(
        description="where the next value begins, rising, one fewer than values: shares of the run, or steps"
    )
    unit: Literal["share", "steps"] = Field(
        default="share", description="share: boundaries lie between 0 and 1; steps: whole optimizer steps"
    )
    length_steps: PositiveInt | None = Field(
        default=None, description="unit steps: the run this was written for; a longer one is refused, not overrun"
    )

    @model_validator(mode="after")
    def _fits(self) -> StepOptions:
        if len(self.boundaries) != len(self.values) - 1:
            raise ValueError(
                f"{len(self.values)} values have {len(self.values) - 1} boundaries between them, "
                f"received {len(self.boundaries)}"
            )
        if any(b <= a for a, b in zip(self.boundaries, self.boundaries[1:], strict=False)):
            raise ValueError(f"boundaries must rise, received {self.boundaries}")
        if self.unit == "share":
            if not all(0 < boundary < 1 for boundary in self.boundaries):
                raise ValueError(f"as shares of the run, boundaries lie between 0 and 1, received {self.boundaries}")
            if self.length_steps is not None:
                raise ValueError("length_steps belongs to unit: steps; shares fit a run of any length")
        elif not all(boundary >= 1 and boundary == int(boundary) for boundary in self.boundaries):
            raise ValueError(f"as steps, boundaries are whole numbers from 1, received {self.boundaries}")
        elif self.length_steps is not None and self.boundaries and self.boundaries[-1] >= self.length_steps:
            raise ValueError(f"the last boundary {self.boundaries[-1]} lies behind length_steps {self.length_steps}")
        return self


class HardLabelOptions(ObjectiveOptions):
    """Options of ``hard-label``: none."""

    def needs(self, declared: Needs) -> Needs:
        """It reads the target at temperature 1."""
        return replace(declared, temperatures=(1.0,))
