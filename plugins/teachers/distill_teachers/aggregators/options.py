"""Options of the aggregators. No torch import."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from distill_core.config import ComponentRef
from distill_core.options import Options
from distill_core.plugin import Provides
from distill_teachers.nested import nested_problems

TeacherWeights = Annotated[dict[str, NonNegativeFloat], Field(min_length=1)]
"""One weight per teacher by name; normalised."""


class FixedOptions(Options):
    """Options of ``fixed``."""

    weights: TeacherWeights | None = Field(
        default=None, description="weight of every teacher by name; default: all alike"
    )
    mean: Literal["arithmetic", "geometric"] = Field(
        default="arithmetic", description="mean of the probabilities, or of their logarithms, normalised"
    )

    @model_validator(mode="after")
    def _some_weight(self) -> FixedOptions:
        if self.weights is not None and not any(self.weights.values()):
            raise ValueError(f"weights are all 0 ({', '.join(self.weights)}): give at least one teacher a weight")
        return self

    def provides(self, declared: Provides) -> Provides:
        """The geometric mean also gives ``log_normalizer``."""
        extra = {"log_normalizer"} if self.mean == "geometric" else set()
        return Provides(signals=declared.signals | extra)


class EntropyOptions(Options):
    """Options of ``entropy``."""

    beta: float = Field(default=1.0, gt=0, description="sharpness: weight exp(-beta * entropy in nat)")


class ValidationLossOptions(Options):
    """Options of ``validation-loss``: one of ``losses`` and ``source``."""

    losses: dict[str, NonNegativeFloat] | None = Field(
        default=None, description="held-out cross-entropy of every teacher in nat per token, by name"
    )
    source: ComponentRef | None = Field(
        default=None, description="held-out records on which live teachers are measured before the first step"
    )
    sequences: PositiveInt = Field(default=64, description="records of source that are read")
    sequence_length_tokens: PositiveInt = Field(default=128, description="longer records are cut there")
    beta: float = Field(default=1.0, gt=0, description="sharpness: weight exp(-beta * loss)")

    @model_validator(mode="after")
    def _one_of_two(self) -> ValidationLossOptions:
        if (self.losses is None) == (self.source is None):
            raise ValueError(
                "say how good the teachers are, in one way: losses (numbers), or source (held-out records)"
            )
        return self

    def problems(self) -> list[str]:
        """What is wrong with the held-out source."""
        return [] if self.source is None else nested_problems("source", self.source, at="source")


class RouterOptions(Options):
    """Options of ``router``."""

    learning_rate: PositiveFloat = Field(default=0.05, description="of Adam on the router's own weights")
    balance: NonNegativeFloat = Field(
        default=0.0,
        description="coefficient of KL(mean weights of a step || all alike), against collapse on one teacher",
    )


class DomainOptions(Options):
    """Options of ``domain``."""

    routes: Annotated[dict[str, str | TeacherWeights], Field(min_length=1)] = Field(
        description="domain of a sequence to the name of a teacher, or to weights by name"
    )
    default: str | TeacherWeights | None = Field(
        default=None, description="for domains without a route; default: they are refused"
    )

    @model_validator(mode="after")
    def _some_weight(self) -> DomainOptions:
        everything: dict[str, Any] = {**self.routes, **({} if self.default is None else {"default": self.default})}
        empty = [name for name, route in everything.items() if not isinstance(route, str) and not any(route.values())]
        if empty:
            raise ValueError(f"the weights of {', '.join(empty)} are all 0: give at least one teacher a weight")
        return self


class MinimumCEOptions(Options):
    """Options of ``minimum-ce``."""

    fusion: Literal["min", "average"] = Field(
        default="min", description="min: the teacher of the lowest cross-entropy; average: all, weighted by it"
    )
    per: Literal["sequence", "row"] = Field(
        default="sequence",
        description="over what the cross-entropy with the labels is averaged before teachers compete",
    )
    beta: float = Field(
        default=1.0, gt=0, description="sharpness of fusion: average: weight exp(-beta * cross-entropy)"
    )
