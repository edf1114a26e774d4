"""The run file's sections on selection: which sequences are learned from, and active rounds of choosing them."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, NonNegativeFloat, PositiveInt, model_validator

from distill_core.config.sections import ComponentRef, Name, Section


class BudgetConfig(Section):
    """How much is kept; exactly one of the three."""

    sequences: PositiveInt | None = Field(default=None, description="so many sequences")
    tokens: PositiveInt | None = Field(default=None, description="as many sequences as fit into so many tokens")
    share: float | None = Field(
        default=None, gt=0, le=1, description="this share of the pool's sequences, above 0 to 1"
    )

    @model_validator(mode="after")
    def _exactly_one(self) -> BudgetConfig:
        given = [name for name in type(self).model_fields if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(
                f"exactly one of sequences, tokens and share says how much is kept; given: {', '.join(given) or 'none'}"
            )
        return self


class SelectConfig(Section):
    """Which of the prepared training sequences are learned from."""

    selector: ComponentRef = Field(description="who chooses")
    budget: BudgetConfig = Field(description="how much is kept")
    batch_sequences: PositiveInt = Field(default=8, description="sequences per pass of a model that is asked")
    exclude: list[str] = Field(
        default_factory=list, description="directories of earlier selections: what they kept is not chosen again"
    )
    keep: list[str] = Field(
        default_factory=list,
        description="directories of earlier selections that are learned from again, beside what the budget buys now",
    )
    features: str | None = Field(
        default=None,
        description="directory of features that selectors share; default: `features` in the run's directory",
    )


class ActiveConfig(Section):
    """Rounds of a run, each of which chooses again with what the student has learned."""

    rounds: PositiveInt = Field(description="most rounds; each keeps `select.budget` of what is left")
    least_gain: NonNegativeFloat = Field(default=0.0, description="stop after a round that gains less, or nothing")
    metric: str = Field(default="cross_entropy", description="what a round gains in: of the evaluation on data.eval")
    first: ComponentRef = Field(
        default_factory=lambda: ComponentRef(use="random"),
        description="who chooses first; default: random",
    )
    learns_from: Literal["all", "round"] = Field(
        default="all", description="labels that a round's student learns from: all bought so far, or the round's own"
    )
    compare: dict[Name, ComponentRef] = Field(
        default_factory=dict,
        description="other selectors with rounds of their own, the same budget and the same first round: the baselines",
    )
