"""Options of the feature-level objectives. No torch import."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, field_validator

from distill_core.options import ObjectiveOptions
from distill_core.plugin import Needs

Pairs = Annotated[list[tuple[NonNegativeInt, NonNegativeInt]], Field(min_length=1)]
"""Pairs [student, teacher] of hidden states; 0 are the embeddings."""

BlockPairs = Annotated[list[tuple[PositiveInt, PositiveInt]], Field(min_length=1)]
"""Pairs [student, teacher] of blocks, from 1."""

HiddenLayers = Literal["uniform", "last", "learned"] | Pairs
AttentionLayers = Literal["uniform", "last"] | BlockPairs

_HIDDEN_LAYERS = (
    "which hidden states are compared: uniform (student block i with teacher block i * L_t / L_s), last (final ones "
    "alone), learned (each student block with a learned convex combination of all teacher blocks), or pairs "
    "[student, teacher], 0 being the embeddings"
)
_BLOCKS = (
    "which blocks are compared: uniform (student block i with teacher block i * L_t / L_s), last, or pairs "
    "[student, teacher], counted from 1"
)
_PROJECTION = "student to teacher width: learned where widths differ, always, or never"
_WITHIN = (
    "rows that are compared with each other: all of a micro-batch, or those of each sequence by itself, which makes "
    "the loss independent of how sequences are cut into micro-batches"
)


class FeatureOptions(ObjectiveOptions):
    """Options of every feature-level objective."""

    positions: Literal["rows", "tokens"] = Field(
        default="rows",
        description="where features are compared: rows (positions that predict something, with the data's token "
        "weights) or tokens (every token that is not padding, each counting 1)",
    )


class HiddenMSEOptions(FeatureOptions):
    """Options of ``hidden-mse``."""

    layers: HiddenLayers = Field(default="uniform", description=_HIDDEN_LAYERS)
    projection: Literal["auto", "linear", "none"] = Field(default="auto", description=_PROJECTION)
    normalize: bool = Field(default=False, description="scale both hidden states to unit length first")


class HiddenCosineOptions(FeatureOptions):
    """Options of ``hidden-cosine``."""

    layers: HiddenLayers = Field(default="last", description=_HIDDEN_LAYERS)
    projection: Literal["auto", "linear", "none"] = Field(default="auto", description=_PROJECTION)


class GroupedOptions(FeatureOptions):
    """Options of objectives that compare rows with each other."""

    within: Literal["batch", "sequence"] = Field(default="batch", description=_WITHIN)


class HiddenCKAOptions(GroupedOptions):
    """Options of ``hidden-cka``."""

    layers: HiddenLayers = Field(default="uniform", description=_HIDDEN_LAYERS)


class HiddenRelationalOptions(GroupedOptions):
    """Options of ``hidden-relational``."""

    layers: HiddenLayers = Field(default="last", description=_HIDDEN_LAYERS)
    distance_weight: NonNegativeFloat = Field(default=1.0, description="factor of the distances between two rows")
    angle_weight: NonNegativeFloat = Field(default=2.0, description="factor of the angles between three rows")
    max_rows: int = Field(
        default=64,
        ge=3,
        description="rows of a group that are compared, drawn at random by the content of the sequences; the angles of "
        "n rows take memory n^3",
    )

    @field_validator("angle_weight")
    @classmethod
    def _something(cls, angle_weight: float, info: object) -> float:
        if angle_weight == 0 and getattr(info, "data", {}).get("distance_weight") == 0:
            raise ValueError("distance_weight and angle_weight are both 0: nothing would be compared")
        return angle_weight


class HiddenContrastiveOptions(GroupedOptions):
    """Options of ``hidden-contrastive``."""

    layers: HiddenLayers = Field(default="last", description=_HIDDEN_LAYERS)
    dimensions: PositiveInt = Field(default=128, description="dimensions of the learned embedding of both sides")
    temperature: PositiveFloat = Field(default=0.07, description="divides the cosine similarities")
    symmetric: bool = Field(
        default=True, description="mean of both directions: teacher rows found by student rows, and the other way round"
    )
    max_rows: int = Field(
        default=1024,
        ge=2,
        description="rows of a group that are compared, drawn at random by the content of the sequences; memory n^2",
    )


class RelationOptions(FeatureOptions):
    """Options of objectives on attention."""

    mask: Literal["causal", "full"] = Field(
        default="causal",
        description="what a position is related to: itself and the tokens before it, or (encoders) every token; never "
        "padding",
    )


class AttentionMapsOptions(RelationOptions):
    """Options of ``attention-maps``."""

    layers: AttentionLayers = Field(default="uniform", description=_BLOCKS)
    distance: Literal["mse", "kl"] = Field(
        default="mse", description="mean squared difference of the attention probabilities, or KL(teacher || student)"
    )
    heads: Literal["auto", "match", "mean"] = Field(
        default="auto",
        description="match: head by head, in order; mean: averages over the heads; auto: match where both have the "
        "same number of heads, else mean",
    )


class MiniLMOptions(RelationOptions):
    """Options of ``minilm``."""

    layers: Literal["last"] | BlockPairs = Field(
        default="last", description="which blocks are compared: last, or pairs [student, teacher], counted from 1"
    )
    attention_weight: NonNegativeFloat = Field(default=1.0, description="factor of the attention distributions")
    value_weight: NonNegativeFloat = Field(default=1.0, description="factor of the value relations")
    heads: Literal["auto", "match", "mean"] = Field(
        default="auto",
        description="of the attention distributions. match: head by head, in order; mean: averages over the heads; "
        "auto: match where both have the same number of heads, else mean",
    )
    relation_heads: PositiveInt | None = Field(
        default=None,
        description="parts that the values of both sides are cut into; default: the teacher's key-value heads, or the "
        "next smaller number that divides both widths",
    )

    @field_validator("value_weight")
    @classmethod
    def _something(cls, value_weight: float, info: object) -> float:
        if value_weight == 0 and getattr(info, "data", {}).get("attention_weight") == 0:
            raise ValueError("attention_weight and value_weight are both 0: nothing would be compared")
        return value_weight

    def needs(self, declared: Needs) -> Needs:
        used = {"attentions": self.attention_weight, "values": self.value_weight}
        return Needs(signals=frozenset(name for name, weight in used.items() if weight), targets=declared.targets)


class MiniLMv2Options(RelationOptions):
    """Options of ``minilm-v2``."""

    layers: Literal["last"] | BlockPairs = Field(
        default="last", description="which blocks are compared: last, or pairs [student, teacher], counted from 1"
    )
    relations: list[Literal["queries", "keys", "values"]] = Field(
        default=["queries", "keys", "values"],
        min_length=1,
        description="what is related to itself; each counts 1",
    )
    relation_heads: PositiveInt | None = Field(
        default=None,
        description="parts that queries, keys and values of both sides are cut into; default: the teacher's attention "
        "heads, or the next smaller number that divides all widths",
    )

    @field_validator("relations")
    @classmethod
    def _once(cls, relations: list[str]) -> list[str]:
        if len(set(relations)) < len(relations):
            raise ValueError(f"relations names something twice: {relations}")
        return relations

    def needs(self, declared: Needs) -> Needs:
        return Needs(signals=frozenset(self.relations), targets=declared.targets)
