"""What the sections of a run file are made of: their base, and components by name with their options."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, NonNegativeFloat, StringConstraints

from distill_core.options import ScheduleRef


class Section(BaseModel):
    """Base of every section: unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ComponentRef(BaseModel):
    """A component by registered name, its options inline."""

    model_config = ConfigDict(extra="allow", frozen=True)

    use: str = Field(description="registered name, bare or `plugin:name`")

    @property
    def options(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]*$")]
"""Names of trainings, teachers and models; they become directory names."""


def _names_an_aligner(value: Any) -> Any:
    if value == "align":
        raise ValueError(
            "align says not how: name an aligner, vocabulary: {use: ...}; `distill plugins list` shows them"
        )
    return value


VocabularyPolicy = Annotated[Literal["error", "truncate"] | ComponentRef, BeforeValidator(_names_an_aligner)]
"""What to do when teacher and student vocabularies differ."""


class ObjectiveRef(ComponentRef):
    """An objective with its place in the sum."""

    name: str | None = Field(default=None, description="name in logs; default: the component's name")
    weight: NonNegativeFloat | ScheduleRef = Field(default=1.0, description="factor in the total loss, or a schedule")
    source: str | None = Field(
        default=None,
        description="whom it learns from: a capture's name, or a teacher's name with teacher: live; default: the "
        "training's own",
    )
    row_weights: ComponentRef | None = Field(
        default=None, description="how much each row counts, e.g. by the teacher's entropy; default: all alike"
    )
