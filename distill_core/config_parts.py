"""What every section of the run file is built from."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints


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
