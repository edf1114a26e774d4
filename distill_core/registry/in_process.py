"""Components that are objects already: registered in a notebook, or defined in a one-file plugin."""

from __future__ import annotations

import hashlib
import inspect
import typing
from typing import Any

from pydantic import BaseModel, create_model

from distill_core.options import DivergenceOptions, NoOptions
from distill_core.plugin import Component, Needs, Provides
from distill_core.registry.records import Registered
from distill_core.registry.staging import check_component

SESSION = "session"
"""Plugin identity of what ``distill_core.register`` adds."""


def describe_object(
    kind: str,
    name: str,
    value: Any,
    *,
    plugin: str = SESSION,
    version: str = "",
    summary: str = "",
    options: type[BaseModel] | None = None,
    needs: Needs | None = None,
    provides: Provides | None = None,
) -> Registered:
    """Make a registered component of an object; see :func:`distill_core.register`."""
    if isinstance(value, str):
        raise TypeError(f"register({kind!r}, {name!r}, ...) was given the string {value!r}; expected the object itself")
    if options is not None and not (isinstance(options, type) and issubclass(options, BaseModel)):
        raise TypeError(f"options of {kind} {name!r} is {options!r}; expected a pydantic model class")
    divergence = as_divergence(value)
    if divergence is not None:
        options = options or options_from_signature(divergence.function)
        needs = needs or divergence_needs(divergence)
    else:
        _check_factory(kind, name, value)
        options = options or NoOptions
        needs = needs or _declared(value, "needs", Needs) or Needs()
    model = options
    component = Component(
        kind=kind,
        name=name,
        target=_importable_name(value),
        summary=summary or first_line(value),
        options=f"{model.__module__}:{model.__qualname__.rpartition('.')[2]}",
        needs=needs,
        provides=provides or _declared(value, "provides", Provides) or Provides(),
    )
    check_component(component)
    return Registered(
        component=component,
        plugin=plugin,
        version=version or source_version(value),
        distribution=plugin,
        entry_point=plugin,
        value=value,
        options_model=model,
    )


def as_divergence(value: Any) -> Any | None:
    """``value`` if it was made by ``@divergence``; known by what it has, so that nothing imports torch here."""
    has = all(hasattr(value, name) for name in ("function", "linear_in_teacher", "properties", "from_options"))
    return value if has and not isinstance(value, type) else None


def divergence_needs(divergence: Any) -> Needs:
    """Targets always; sampled ones only where the divergence is linear in the teacher."""
    targets = ("exact", "sampled") if divergence.linear_in_teacher else ("exact",)
    return Needs(signals=frozenset({"targets"}), targets=targets)


def options_from_signature(function: Any) -> type[DivergenceOptions]:
    """Options of a divergence: those of every divergence plus one field for each keyword of the function.

    >>> def renyi(teacher_logp, student_logp, *, alpha: float = 0.5): ...
    >>> options_from_signature(renyi)(alpha=0.25).alpha
    0.25
    """
    hints = typing.get_type_hints(function)
    fields: dict[str, Any] = {}
    for parameter in list(inspect.signature(function).parameters.values())[2:]:
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise TypeError(f"{function.__name__} takes {parameter}; name its options, so that typing errors are found")
        default = ... if parameter.default is parameter.empty else parameter.default
        annotation = hints.get(parameter.name, Any if default is ... else type(default))
        fields[parameter.name] = (annotation, default)
    if not fields:
        return DivergenceOptions
    reserved = sorted(set(fields) & set(DivergenceOptions.model_fields))
    if reserved:
        raise TypeError(f"{function.__name__} has an option named {reserved[0]!r}, which every divergence has already")
    name = "".join(part.title() for part in function.__name__.split("_")) + "Options"
    return create_model(name, __base__=DivergenceOptions, __module__=function.__module__, **fields)


def _check_factory(kind: str, name: str, value: Any) -> None:
    if not callable(value) and not hasattr(value, "from_options"):
        raise TypeError(
            f"{kind} {name!r}: {value!r} can be neither called with the options nor has from_options(options)"
        )
    if inspect.isfunction(value):
        required = [p for p in inspect.signature(value).parameters.values() if p.default is p.empty]
        if len(required) != 1:
            raise TypeError(
                f"{kind} {name!r}: {value.__name__} takes {len(required)} arguments; a factory takes one, the options "
                "(a function of two log-probability tensors is made an objective by @divergence)"
            )


def _declared(value: Any, name: str, expected: type[Any]) -> Any | None:
    found = getattr(value, name, None)
    return found if isinstance(found, expected) else None


def _importable_name(value: Any) -> str:
    """For display: where the object was defined."""
    named = value if hasattr(value, "__qualname__") else type(value)
    attribute = named.__qualname__.replace("<locals>.", "").replace("<lambda>", "function")
    return f"{named.__module__}:{attribute}"


def first_line(value: Any) -> str:
    """The first line of an object's own docstring."""
    own = value.__doc__ if inspect.isclass(value) or inspect.isfunction(value) or as_divergence(value) else None
    return (own or "").strip().split("\n")[0]


def source_version(value: Any) -> str:
    """A hash of the source, so that a run notices an edited cell; ``unversioned`` where there is no source."""
    source_of = getattr(value, "function", value)
    try:
        source = inspect.getsource(source_of)
    except (OSError, TypeError):
        return "unversioned"
    return "source-" + hashlib.sha256(source.encode()).hexdigest()[:12]
