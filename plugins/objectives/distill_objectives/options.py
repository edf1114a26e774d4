"""Options of the first-party objectives and schedules. No torch import."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, field_validator, model_validator

from distill_core.options import DivergenceOptions, ObjectiveOptions, Options
from distill_core.plugin import Needs


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


class CrossEntropyOptions(ObjectiveOptions):
    """Options of ``cross-entropy``."""

    label_smoothing: float = Field(
        default=0.0, ge=0, lt=1, description="share of the label's mass spread evenly over the whole head"
    )
    z_loss: NonNegativeFloat = Field(default=0.0, description="coefficient of logsumexp(logits)^2")


class HiddenMSEOptions(ObjectiveOptions):
    """Options of ``hidden-mse``."""

    layers: Literal["uniform", "last"] | Annotated[list[tuple[NonNegativeInt, NonNegativeInt]], Field(min_length=1)] = (
        Field(
            default="uniform",
            description="which hidden states are compared: uniform (student block i with teacher block i * L_t / L_s), "
            "last (final ones alone), or pairs [student, teacher], 0 being the embeddings",
        )
    )
    projection: Literal["auto", "linear", "none"] = Field(
        default="auto", description="student to teacher width: learned where widths differ, always, or never"
    )
    normalize: bool = Field(default=False, description="scale both hidden states to unit length first")


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
