"""A component under test: how to build it, and with which options."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from distill_core.plugin import Needs, Provides
from distill_core.registry import Registered, Registry
from distill_core.registry.option_values import build_component, option_problems, options_model, validated_options


class NotApplicable(Exception):
    """A check does not apply to this component; the message says why. Reported as "left out", never hidden."""


@dataclass(frozen=True)
class Subject:
    """A component under test.

    Args:
        entry: the component.
        registry: where it and what it builds come from.
        directory: a folder of its own, for example data.
        given: options to build it with; None: the example of its options model.
    """

    entry: Registered
    registry: Registry
    directory: Path
    given: Mapping[str, Any] | None = None

    @property
    def model(self) -> type[BaseModel]:
        return options_model(self.entry)

    def options(self, **changes: Any) -> BaseModel:
        """Options to test with: those given, or ``Model.example(directory)``, or all defaults.

        Raises:
            NotApplicable: the defaults alone are not valid and the model has no ``example``.
        """
        if self.given is not None:
            return validated_options(self.entry, {**self.given, **changes})
        example = getattr(self.model, "example", None)
        if callable(example):
            return self.model.model_validate({**example(self.directory).model_dump(), **changes})
        try:
            return self.model.model_validate(changes)
        except ValidationError as error:
            problems = "; ".join(option_problems(error, self.model))
            raise NotApplicable(
                f"its defaults alone are not valid ({problems}): give options, or the options model a classmethod "
                "example(directory) that returns some"
            ) from None

    def build(self, **changes: Any) -> Any:
        """A fresh instance."""
        return build_component(self.entry, self.options(**changes))

    def needs(self, **changes: Any) -> Needs:
        return self.entry.needs(self.options(**changes))

    def provides(self) -> Provides:
        return self.entry.provides(self.options())
