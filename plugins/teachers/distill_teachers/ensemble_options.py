"""Options of the teachers ``ensemble`` and ``calibrated``. No torch import."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from distill_core.config import ComponentRef
from distill_core.errors import ConfigError, PluginError
from distill_core.options import Options
from distill_core.plugin import Provides
from distill_teachers.nested import nested_options, nested_problems
from distill_teachers.options import HFOptions


class MemberOptions(HFOptions):
    """One member of an ensemble: the options of ``hf``, its weight and its temperature."""

    weight: NonNegativeFloat = Field(default=1.0, description="share in the mean; weights are normalised")
    temperature: PositiveFloat = Field(
        default=1.0, description="its logits are divided by this before they are mixed (a calibrated member)"
    )


class EnsembleOptions(Options):
    """Options of ``ensemble``."""

    members: Annotated[dict[str, MemberOptions], Field(min_length=2)] = Field(
        description="local models of one tokenizer, by name"
    )
    mean: Literal["arithmetic", "geometric"] = Field(
        default="arithmetic", description="mean of the probabilities, or of their logarithms, normalised"
    )

    @model_validator(mode="after")
    def _some_weight(self) -> EnsembleOptions:
        if not any(member.weight for member in self.members.values()):
            raise ValueError(f"the weights of {', '.join(self.members)} are all 0: give at least one member a weight")
        return self

    def problems(self) -> list[str]:
        """Files and packages of the members that are missing on this machine."""
        return [f"members.{name}.{problem}" for name, member in self.members.items() for problem in member.problems()]

    def files(self) -> list[str]:
        """What is read of this machine."""
        return [path for member in self.members.values() for path in member.files()]


class CalibratedOptions(Options):
    """Options of ``calibrated``: another teacher, and one of ``temperature`` and ``source``."""

    teacher: ComponentRef = Field(description="the teacher that is calibrated")
    temperature: PositiveFloat | None = Field(
        default=None, description="known temperature, for instance of an earlier fit"
    )
    source: ComponentRef | None = Field(default=None, description="held-out records on which the temperature is fitted")
    sequences: PositiveInt = Field(default=64, description="records of source that are read")
    sequence_length_tokens: PositiveInt = Field(default=128, description="longer records are cut there")

    @model_validator(mode="after")
    def _one_of_two(self) -> CalibratedOptions:
        if (self.temperature is None) == (self.source is None):
            raise ValueError("say the temperature in one way: temperature (a number), or source (held-out records)")
        return self

    def inner(self) -> BaseModel | None:
        """The wrapped teacher's options, None where they are wrong."""
        try:
            return nested_options("teacher", self.teacher)
        except (ConfigError, PluginError):
            return None

    def problems(self) -> list[str]:
        """What is wrong with the wrapped teacher and the source."""
        found = nested_problems("teacher", self.teacher, at="teacher")
        return found + ([] if self.source is None else nested_problems("source", self.source, at="source"))

    def provides(self, declared: Provides) -> Provides:
        """Targets alone, of the kinds that the wrapped teacher gives."""
        from distill_core.errors import DistillError
        from distill_core.registry import get_registry

        try:
            inner = get_registry(strict=False).provides("teacher", self.teacher)
        except DistillError:
            return declared
        return Provides(signals=declared.signals, targets=inner.targets, temperatures=declared.temperatures)

    def files(self) -> list[str]:
        """What is read of this machine."""
        files = getattr(self.inner(), "files", None)
        return list(files()) if callable(files) else []
