"""From plain data to a :class:`RunConfig`, with every problem of form as a sentence."""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ValidationError

from distill_core.config import RunConfig
from distill_core.engine.run_file.loading import Location, RawRunFile, path_text

_WRONG_SHAPE = ("_type", "_parsing")
"""Ends of pydantic's error types that say a value has another type than this branch of a union expects."""


@dataclass(frozen=True)
class Problem:
    """Something wrong at a place of the run file."""

    location: Location
    message: str

    def text(self, raw: RawRunFile | None = None) -> str:
        where = raw.where(self.location) if raw is not None else ""
        return f"{path_text(self.location)}{where}: {self.message}" if self.location else self.message


def parse_config(raw: RawRunFile) -> tuple[RunConfig | None, list[Problem]]:
    """The config, and all problems of form.

    Where there are problems, the config is what remains without the offending entries (so that the rest can be
    checked in the same go), or None if that is not a config.
    """
    try:
        return RunConfig.model_validate(raw.data), []
    except ValidationError as error:
        problems = form_problems(error, raw.data)
    remains: Any = raw.data
    for problem in sorted(problems, key=lambda p: len(p.location), reverse=True):
        remains = _without(remains, problem.location)
    try:
        return RunConfig.model_validate(remains), problems
    except ValidationError:
        return None, problems


def form_problems(error: ValidationError, data: Any) -> list[Problem]:
    """One problem for each place, union branches merged, unknown keys with near misses."""
    found: dict[Location, list[tuple[str, str]]] = {}
    for detail in error.errors(include_url=False):
        location = _location(detail["loc"], data, missing=detail["type"] == "missing")
        found.setdefault(location, []).append((detail["type"], _message(detail, location)))
    problems = []
    for location, entries in found.items():
        deeper = any(len(other) > len(location) and other[: len(location)] == location for other in found)
        if deeper and all(kind.endswith(_WRONG_SHAPE) for kind, _ in entries):
            continue  # another branch of the union fits and says more
        said = [entry for entry in entries if not entry[0].endswith(_WRONG_SHAPE)] or entries
        messages = list(dict.fromkeys(message for _, message in said))
        problems.append(Problem(location, " or ".join(messages)))
    return problems


def _has(container: Any, step: str | int) -> bool:
    if isinstance(container, dict):
        return step in container
    return isinstance(container, list) and isinstance(step, int) and step < len(container)


def _location(loc: Iterable[str | int], data: Any, *, missing: bool) -> Location:
    """pydantic's location without the names of union branches."""
    steps = list(loc)
    result: list[str | int] = []
    here: Any = data
    for index, step in enumerate(steps):
        if _has(here, step):
            here = here[step]
            result.append(step)
        elif missing and index == len(steps) - 1:
            result.append(step)
    return tuple(result)


def _message(detail: Any, location: Location) -> str:
    kind, message = detail["type"], detail["msg"]
    if kind == "missing":
        written = difflib.get_close_matches(str(location[-1]), [str(key) for key in detail["input"]], 1)
        return "required, but missing" + (f"; is {written[0]!r} a misspelling of it?" if written else "")
    if kind == "extra_forbidden":
        return "unknown key" + suggestion(str(location[-1]), keys_at(location[:-1]), what="keys here")
    message = message.removeprefix("Value error, ").removeprefix("Input ")
    message = message[:1].lower() + message[1:]
    received = repr(detail["input"])
    return f"{message}, received {received if len(received) <= 60 else received[:57] + '...'}"


def suggestion(name: str, known: Iterable[str], *, what: str) -> str:
    """``; did you mean 'x'?`` or, if nothing is near, what is known."""
    known = list(known)
    near = difflib.get_close_matches(name, known, 1)
    if near:
        return f"; did you mean {near[0]!r}?"
    return f"; {what}: {', '.join(known)}" if known else ""


def keys_at(location: Location) -> list[str]:
    """The keys a run file may have at a place."""
    models: list[type[BaseModel]] = [RunConfig]
    for step in location:
        following: list[type[BaseModel]] = []
        for model in models:
            if isinstance(step, int):
                following.append(model)
            elif step in model.model_fields:
                following += _models(model.model_fields[step].annotation)
            else:
                following.append(model)  # a free name in a mapping such as compare.<name>
        models = following
    return [field for model in models for field in model.model_fields]


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if isinstance(annotation, types.GenericAlias | types.UnionType) or typing.get_origin(annotation) is not None:
        return [model for part in typing.get_args(annotation) for model in _models(part)]
    return []


def _without(data: Any, location: Location) -> Any:
    """A copy of ``data`` without the entry at ``location``."""
    if not location:
        return data
    step, rest = location[0], location[1:]
    if isinstance(data, dict) and step in data:
        if not rest:
            return {key: value for key, value in data.items() if key != step}
        return {key: _without(value, rest) if key == step else value for key, value in data.items()}
    if isinstance(data, list) and isinstance(step, int) and step < len(data):
        if not rest:
            return data[:step] + data[step + 1 :]
        return [_without(value, rest) if index == step else value for index, value in enumerate(data)]
    return data
