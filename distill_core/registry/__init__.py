"""Plugins of this process: found by entry point, loaded in isolation, their components resolved by name.

Nothing here imports torch; a component's target is imported when it is built.

>>> from distill_core.registry import get_registry
>>> get_registry().components("no-such-kind")
[]
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from distill_core.plugin import Needs, Provides
from distill_core.registry.controls import Controls
from distill_core.registry.host import Registry
from distill_core.registry.records import PluginRecord, Registered

__all__ = ["Controls", "PluginRecord", "Registered", "Registry", "get_registry", "register", "reset_registry"]

_registry: Registry | None = None


def get_registry(*, strict: bool | None = None) -> Registry:
    """The registry of this process, discovered at first use.

    Args:
        strict: raise if a plugin failed or is missing; None: as ``DISTILL_PLUGINS_STRICT`` says.

    Raises:
        PluginError: strict, and not every plugin is sound.
    """
    global _registry
    controls = Controls.from_environment()
    if _registry is None:
        _registry = Registry().discover(controls)
    if controls.strict if strict is None else strict:
        _registry.require_sound()
    return _registry


def reset_registry() -> None:
    """Forget everything; the next :func:`get_registry` discovers again (after an installation, in tests)."""
    global _registry
    _registry = None


def register(
    kind: str,
    name: str,
    obj: Any,
    *,
    summary: str = "",
    options: type[BaseModel] | None = None,
    needs: Needs | None = None,
    provides: Provides | None = None,
) -> Registered:
    """Register a component of this process, for notebooks and scripts; a package declares it in a plugin instead.

    Args:
        kind: ``"objective"``, ``"teacher"``, ``"source"``, ...
        name: kebab-case name; its full name is ``session:NAME``. The same again replaces it.
        obj: a ``@divergence`` function, or a class or factory called with the validated options.
        summary: one line; default: the first line of the docstring.
        options: pydantic model of the options; default: for a divergence its keywords, else no options.
        needs: what it asks of teacher signals; default: ``obj.needs`` if it has that, for a divergence its targets.
        provides: what a teacher gives; default: ``obj.provides``.

    Raises:
        TypeError, ValueError: a wrong name or an object that cannot be built; the message says what was expected.

    >>> from distill_core.registry import register, reset_registry
    >>> class Half:
    ...     def __init__(self, options): ...
    ...     def __call__(self, step, total_steps): return 0.5
    >>> register("schedule", "half", Half).id
    'session:half'
    >>> reset_registry()
    """
    return get_registry(strict=False).register(
        kind, name, obj, summary=summary, options=options, needs=needs, provides=provides
    )
