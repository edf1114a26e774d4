"""Options of ``image-text-contrastive``. No torch import."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, PositiveFloat, field_validator

from distill_core.options import ModelSource, ObjectiveOptions


class ImageTextContrastiveOptions(ObjectiveOptions):
    """Options of ``image-text-contrastive``."""

    encoder: ModelSource = Field(
        description="the text encoder, which stays as it is: directory, hub id, or package:NAME/DIRECTORY of an "
        "installed Python package"
    )
    captions: tuple[Annotated[str, Field(min_length=1)], ...] = Field(
        min_length=2,
        description="what an image of each class shows, in words, in the order of the task's labels; classes may share "
        "a caption",
    )
    revision: str | None = Field(default=None, description="hub revision of the encoder: branch, tag or commit")
    temperature: PositiveFloat = Field(default=0.07, description="divides the cosine similarities")

    @field_validator("captions")
    @classmethod
    def _something_to_tell_apart(cls, captions: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(captions)) < 2:
            raise ValueError(f"all {len(captions)} captions are {captions[0]!r}: at least two must differ")
        return captions
