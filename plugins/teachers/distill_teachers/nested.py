"""Components named inside the options of another: checked with them, built when needed. No torch import."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from distill_core.config import ComponentRef
from distill_core.errors import ConfigError, PluginError


def nested_options(kind: str, ref: ComponentRef) -> BaseModel:
    """The validated options of a nested reference; raises as ``Registry.options``."""
    from distill_core.registry import get_registry

    return get_registry(strict=False).options(kind, ref)


def build_nested(kind: str, ref: ComponentRef) -> Any:
    """The component of a nested reference."""
    from distill_core.registry import get_registry

    return get_registry(strict=False).build(kind, ref)


def nested_problems(kind: str, ref: ComponentRef, *, at: str) -> list[str]:
    """What is wrong with a nested reference on this machine, each sentence starting with its path under ``at``."""
    try:
        options = nested_options(kind, ref)
    except ConfigError as error:
        return [f"{at}.{problem}" for problem in error.problems]
    except PluginError as error:
        return [f"{at}.use: {error}"]
    check = getattr(options, "problems", None)
    return [f"{at}.{problem}" for problem in check()] if callable(check) else []
