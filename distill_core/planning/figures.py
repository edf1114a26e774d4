"""What a plan is made of: figures with unit, formula and the ways in which they leave the formula's domain."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Formula(_Part):
    """A formula with its source and the region it was fitted or derived for."""

    text: str = Field(description="the formula")
    source: str = Field(description="where it comes from")
    domain: str = Field(description="where it is valid")


class Figure(_Part):
    """One computed number.

    >>> Figure(key="tokens", label="tokens", value=2e9, unit="tokens", formula="given").outside
    ()
    """

    key: str = Field(description="name of the figure, unique in the plan")
    label: str = Field(description="the same for people")
    value: FiniteFloat = Field(description="in `unit`")
    unit: str = Field(description="nat, FLOP, s, B, B/position, passes or 1")
    formula: str = Field(description="key in `formulas`")
    outside: tuple[str, ...] = Field(default=(), description="how the inputs leave the formula's domain; empty: inside")


class Advice(_Part):
    """A recommendation and what it rests on."""

    advice: str = Field(description="what to do")
    why: str = Field(description="the figures behind it")


class Plan(_Part):
    """The whole plan, as ``distill plan --json`` prints it."""

    schema_version: Literal[1] = Field(default=1, description="version of this format")
    inputs: Mapping[str, Any] = Field(description="what was given or read")
    assumptions: tuple[str, ...] = Field(description="what was neither given nor read")
    loss: tuple[Figure, ...] = Field(description="expected losses")
    compute: tuple[Figure, ...] = Field(description="floating point operations and time")
    memory: tuple[Figure, ...] = Field(description="memory of a training step")
    storage: tuple[Figure, ...] = Field(description="size of a store of the teacher's answers")
    warnings: tuple[str, ...] = Field(description="what may go wrong")
    recommendations: tuple[Advice, ...] = Field(description="what to do, and why")
    missing: tuple[str, ...] = Field(description="what could not be computed, and what would allow it")
    formulas: Mapping[str, Formula] = Field(description="the formulas used, by key")

    def figure(self, key: str) -> Figure:
        """A figure by its key.

        Raises:
            KeyError: there is none in this plan.
        """
        for figure in (*self.loss, *self.compute, *self.memory, *self.storage):
            if figure.key == key:
                return figure
        raise KeyError(key)
