"""A component's options: its model is imported, the values given are validated, every problem is a sentence."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from types import UnionType
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from distill_core.config import ComponentRef, ObjectiveRef
from distill_core.errors import ConfigError, PluginError
from distill_core.registry.records import Registered

Reference = ComponentRef | Mapping[str, Any] | str
"""How a component is asked for: a parsed reference, a mapping with ``use`` and options, or just a name."""


def parse_reference(kind: str, reference: Reference) -> ComponentRef:
    """A :class:`ComponentRef` (for objectives an :class:`ObjectiveRef`, whose name and weight are no options)."""
    if isinstance(reference, ComponentRef):
        return reference
    given = {"use": reference} if isinstance(reference, str) else dict(reference)
    model = ObjectiveRef if kind == "objective" else ComponentRef
    try:
        return model.model_validate(given)
    except ValidationError as error:
        raise ConfigError(option_problems(error, model), source=f"{kind} {given!r}") from None


def import_attribute(path: str, *, owner: str, role: str) -> Any:
    """Import ``package.module:attribute``.

    Raises:
        PluginError: it cannot be imported; names the plugin's component and keeps the cause.
    """
    module_name, _, attribute = path.partition(":")
    try:
        value: Any = import_module(module_name)
        for part in attribute.split("."):
            value = getattr(value, part)
    except (Exception, SystemExit) as error:
        raise PluginError(f"{role} {path} of {owner} cannot be imported: {type(error).__name__}: {error}") from error
    return value


def options_model(entry: Registered) -> type[BaseModel]:
    """The pydantic model of a component's options."""
    if entry.options_model is not None:
        model = entry.options_model
    else:
        model = import_attribute(entry.component.options, owner=_label(entry), role="options model")
    if not (isinstance(model, type) and issubclass(model, BaseModel)):
        raise PluginError(f"options model {entry.component.options} of {_label(entry)} is no pydantic model: {model!r}")
    return model


def validated_options(entry: Registered, given: Mapping[str, Any]) -> BaseModel:
    """The options as the component's model.

    Raises:
        ConfigError: one or more are wrong; ``problems`` holds one sentence each, starting with the option's path.
    """
    model = options_model(entry)
    try:
        return model.model_validate(dict(given))
    except ValidationError as error:
        raise ConfigError(option_problems(error, model), source=f"options of {_label(entry)}") from None


def option_problems(error: ValidationError, model: type[BaseModel]) -> list[str]:
    """One sentence for each wrong option of a pydantic error: path, what was expected, what was received."""
    by_path: dict[str, list[str]] = {}
    for detail in _best_branches(error, model):
        location = _without_union_tag(detail["loc"], model)
        path = option_path(location) or "options"
        if detail["type"] == "extra_forbidden":
            known = list(model.model_fields) if len(location) == 1 else None
            message = f"unknown option{_suggestion(str(location[-1]), known)}"
        elif detail["type"] == "missing":
            message = "required, but not given"
        else:
            message = f"{detail['msg'].removeprefix('Value error, ')}; received {detail['input']!r}"
        by_path.setdefault(path, []).append(message)
    return [f"{path}: {' | or: '.join(messages)}" for path, messages in by_path.items()]


def _best_branches(error: ValidationError, model: type[BaseModel]) -> Iterator[Any]:
    """Errors, and of an option that may be several things only those of the branch that was meant.

    For ``temperature: PositiveFloat | ScheduleRef`` given as -1 that is the number's, not that -1 is no mapping.
    """
    details = error.errors(include_url=False)
    for detail in details:
        location = detail["loc"]
        if not _is_union(location, model):
            yield detail
            continue
        siblings = [other for other in details if other["loc"][:1] == location[:1] and other is not detail]
        deeper = any(len(other["loc"]) > len(location) for other in siblings)
        if len(location) == 2 and deeper:
            continue
        if detail["type"] in ("model_type", "model_attributes_type") and siblings:
            continue
        yield detail


def _is_union(location: Sequence[int | str], model: type[BaseModel]) -> bool:
    """Whether the second part of a pydantic location names a branch of a union, not a place in the value."""
    field = model.model_fields.get(str(location[0])) if len(location) > 1 else None
    if field is None or get_origin(field.annotation) not in (Union, UnionType):
        return False
    return len([branch for branch in get_args(field.annotation) if branch is not type(None)]) > 1


def _without_union_tag(location: tuple[int | str, ...], model: type[BaseModel]) -> tuple[int | str, ...]:
    return (location[0], *location[2:]) if _is_union(location, model) else location


def option_path(location: Sequence[int | str]) -> str:
    """``("values", 0, "at")`` as ``values[0].at``."""
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text


def _suggestion(name: str, known: Sequence[str] | None) -> str:
    if known is None:
        return ""
    near = difflib.get_close_matches(name, known, 1)
    if near:
        return f"; did you mean {near[0]!r}?"
    return f"; known: {', '.join(known)}" if known else "; this component has no options"


def build_component(entry: Registered, options: BaseModel) -> Any:
    """Load the target and call it with its options."""
    target = entry.value
    if target is None:
        target = import_attribute(entry.component.target, owner=_label(entry), role="target")
    factory = getattr(target, "from_options", target)
    if not callable(factory):
        raise PluginError(
            f"target {entry.component.target} of {_label(entry)} is {target!r}; expected something to call with the "
            "options, or an object with from_options(options)"
        )
    try:
        return factory(options)
    except SystemExit as error:
        raise PluginError(f"{_label(entry)} called sys.exit({error.code!r}) while it was built") from error
    except Exception as error:
        if hasattr(error, "add_note"):  # Python 3.11 and later
            error.add_note(f"while building {_label(entry)}")
        raise


def _label(entry: Registered) -> str:
    return f"{entry.component.kind} {entry.id}"
