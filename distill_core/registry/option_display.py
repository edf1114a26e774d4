"""A component's options as text: what ``distill plugins show`` prints."""

from __future__ import annotations

from collections.abc import Sequence
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel


def explain_options(model: type[BaseModel]) -> Sequence[tuple[str, str, str, str]]:
    """Name, type, default and description of each option.

    >>> from distill_core.options import DivergenceOptions
    >>> explain_options(DivergenceOptions)[1][:3]
    ('view', "'stored' | 'head'", "'stored'")
    """
    rows = []
    for name, field in model.model_fields.items():
        default = "required" if field.is_required() else repr(field.get_default(call_default_factory=True))
        rows.append((name, type_name(field.annotation), default, field.description or ""))
    return rows


def type_name(annotation: Any) -> str:
    """A type as a person would write it; bounds are left to the description.

    >>> type_name(list[tuple[int, float]] | None)
    'list[tuple[int, float]] | None'
    """
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return type_name(arguments[0])
    if origin is Literal:
        return " | ".join(repr(value) for value in arguments)
    if origin in (Union, UnionType):
        return " | ".join(type_name(argument) for argument in arguments)
    if annotation is NoneType:
        return "None"
    if annotation is Ellipsis:
        return "..."
    name = getattr(origin or annotation, "__name__", str(annotation))
    return f"{name}[{', '.join(type_name(argument) for argument in arguments)}]" if arguments else str(name)
