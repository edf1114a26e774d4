"""Torch-free option models shared by components. A plugin's own options subclass :class:`Options`."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PositiveFloat

from distill_core.plugin import Needs


class Options(BaseModel):
    """Base of every options model: unknown names, infinity and NaN are errors, values are frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def regular_expression(pattern: str) -> re.Pattern[str]:
    """The pattern compiled, or a ``ValueError`` that shows it, for validators.

    >>> regular_expression("a+").fullmatch("aa") is not None
    True
    """
    try:
        return re.compile(pattern)
    except re.error as error:
        raise ValueError(f"{pattern!r} is no regular expression: {error}") from None


def with_group(pattern: str, name: str) -> str:
    """The pattern, if it is a regular expression that has the group; else ``ValueError``, for validators.

    >>> with_group("A: (?P<answer>.*)", "answer")
    'A: (?P<answer>.*)'
    """
    if name not in regular_expression(pattern).groupindex:
        raise ValueError(f"{pattern!r} has no group called {name}: write that part as (?P<{name}>...)")
    return pattern


def _located(source: str) -> str:
    """``package:NAME/DIRECTORY`` as the directory inside the installed package, which is not imported."""
    if not source.startswith("package:"):
        return source
    name, _, inside = source.removeprefix("package:").partition("/")
    spec = find_spec(name.replace("-", "_")) if "." not in name else None
    roots = [] if spec is None else list(spec.submodule_search_locations or ())
    if not roots:
        raise ValueError(f"the Python package {name} is not installed; install it with: pip install {name}")
    return str(Path(roots[0], inside))


ModelSource = Annotated[str, AfterValidator(_located)]
"""Where ``from_pretrained`` finds something: a hub id, a directory, or ``package:NAME/DIRECTORY``."""


class NoOptions(Options):
    """A component without options."""


class PartRef(BaseModel):
    """A component inside another one's options: its name, its own options inline. ``KIND`` says of which kind."""

    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False)

    KIND: ClassVar[str]

    use: str = Field(description="registered name")

    @property
    def options(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


class ScheduleRef(PartRef):
    """A schedule component by name with its options inline: ``{use: linear, start: 0.0, end: 1.0}``."""

    KIND = "schedule"

    use: str = Field(description="registered name of a schedule")


class CheckerRef(PartRef):
    """A checker component by name with its options inline: ``{use: numeric-answer}``."""

    KIND = "checker"

    use: str = Field(description="registered name of a checker")


class SourceRef(PartRef):
    """A source component by name with its options inline: ``{use: jsonl, path: questions.jsonl}``."""

    KIND = "source"

    use: str = Field(description="registered name of a source")


class ObjectiveOptions(Options):
    """Options every row objective understands."""

    def needs(self, declared: Needs) -> Needs:
        """What this objective needs, given what its component declares."""
        return declared


class DivergenceOptions(ObjectiveOptions):
    """Options of a divergence on the k+1 simplex.

    Args:
        temperature: softmax temperature of both sides, dimensionless; no hidden tau^2 factor. A schedule may list the
            ``values`` it takes; without them it needs a teacher that answers at any temperature.
        view: which view of the stored target is used. ``stored``: as captured; ``head``: the exact head + tail view
            of a threshold sample (entries with p >= c, tail = 1 - their sum), legal for every divergence.
    """

    temperature: PositiveFloat | ScheduleRef = Field(
        default=1.0, description="softmax temperature of teacher and student, or a schedule of it"
    )
    view: Literal["stored", "head"] = Field(
        default="stored", description="head: the exact head + tail view of a threshold sample"
    )

    def needs(self, declared: Needs) -> Needs:
        temperatures: tuple[float, ...] | None
        if isinstance(self.temperature, ScheduleRef):
            values = self.temperature.options.get("values")
            temperatures = None if values is None else tuple(float(value) for value in values)
        else:
            temperatures = (self.temperature,)
        return Needs(signals=declared.signals, targets=declared.targets, temperatures=temperatures)
