"""Options of the tasks. No torch import."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveFloat, PositiveInt, field_validator, model_validator

from distill_core.options import Options


class LabelledOptions(Options):
    """What every task has: the classes."""

    labels: tuple[str, ...] = Field(
        min_length=2, description="all classes, in the order of their ids (of the teacher's config.id2label)"
    )

    @field_validator("labels", mode="before")
    @classmethod
    def _texts(cls, labels: object) -> object:
        """YAML reads ``[0, 1]`` as numbers."""
        return [str(one) if isinstance(one, int) else one for one in labels] if isinstance(labels, list) else labels

    @field_validator("labels")
    @classmethod
    def _different(cls, labels: tuple[str, ...]) -> tuple[str, ...]:
        twice = sorted({label for label in labels if labels.count(label) > 1})
        if twice:
            raise ValueError(f"a class is listed twice: {', '.join(twice)}")
        return labels


class SequenceClassificationOptions(LabelledOptions):
    """Options of ``sequence-classification``."""

    text: str = Field(default="text", description="field of a record with the text")
    label: str = Field(default="label", description="field with the class, one of labels")
    position: Literal["first", "last"] = Field(
        default="first", description="token whose hidden state stands for the text: first (encoders) or last (decoders)"
    )


class TokenClassificationOptions(LabelledOptions):
    """Options of ``token-classification``."""

    tokens: str = Field(default="tokens", description="field of a record with the list of words")
    label: str = Field(default="labels", description="field with the list of their classes; null: no class")


class ImageClassificationOptions(LabelledOptions):
    """Options of ``image-classification``."""

    image: str = Field(default="image", description="field of a record with the image: bytes 0 .. 255, row by row")
    label: str = Field(default="label", description="field with the class, one of labels")
    height: PositiveInt = Field(description="pixels; images of another size are refused")
    width: PositiveInt = Field(description="pixels")
    channels: Literal[1, 3] = Field(default=3, description="1: grey, 3: red, green, blue (last axis)")
    mean: tuple[float, ...] = Field(default=(0.5,), description="per channel, of values in [0, 1]; subtracted")
    std: tuple[PositiveFloat, ...] = Field(default=(0.5,), description="per channel; divides after that")

    @model_validator(mode="after")
    def _per_channel(self) -> ImageClassificationOptions:
        for name, given in (("mean", self.mean), ("std", self.std)):
            if len(given) not in (1, self.channels):
                raise ValueError(
                    f"{name} has {len(given)} values; expected 1, or one for each of {self.channels} channels"
                )
        return self
