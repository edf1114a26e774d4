"""Loads one plugin in stages on a plugin manager of its own: nothing reaches the host before everything passed.

Stages: ``import`` -> ``register`` -> ``hooks`` (names and signatures) -> ``components`` (declarations).
"""

from __future__ import annotations

import contextlib
import difflib
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pluggy

from distill_core.plugin import KINDS, PLUGIN_API, PROJECT, Component, Hooks
from distill_core.registry.records import PluginRecord

HOOK_NAMES = tuple(name for name in vars(Hooks) if name.startswith("distill_"))

_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_TARGET = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")


def new_manager() -> pluggy.PluginManager:
    """A pluggy manager that knows the project's hooks."""
    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(Hooks)
    return manager


@contextlib.contextmanager
def output_kept_off_stdout() -> Iterator[None]:
    """What a plugin prints while it loads goes to standard error, so that ``--json`` output stays JSON."""
    with contextlib.redirect_stdout(sys.stderr):
        yield


class Stage:
    """The stage a plugin is in, readable after it failed."""

    def __init__(self) -> None:
        self.name = "import"


def load_plugin(record: PluginRecord, load: Callable[[], Any]) -> Any | None:
    """Run all stages; return the plugin object, or None with the failure kept in ``record``.

    Catches ``Exception`` and ``SystemExit``; ``KeyboardInterrupt`` stays the user's.
    """
    stage = Stage()
    try:
        with output_kept_off_stdout():
            plugin = load()
            stage.name = "register"
            manager = _register(plugin, stage)
            stage.name = "hooks"
            check_hooks(manager, plugin)
            stage.name = "components"
            record.components = read_components(manager)
    except (Exception, SystemExit) as error:
        record.blame("failed", stage.name, error)
        return None
    return plugin


def _register(plugin: Any, stage: Stage) -> pluggy.PluginManager:
    manager = new_manager()
    try:
        manager.register(plugin, name="staged")
    except pluggy.PluginValidationError:
        stage.name = "hooks"
        raise
    return manager


def check_hooks(manager: pluggy.PluginManager, plugin: Any) -> None:
    """Every hook has a known name, is marked, and is no wrapper around other plugins' hooks."""
    callers = manager.get_hookcallers(plugin) or []
    for caller in callers:
        if not caller.has_spec():
            near = difflib.get_close_matches(caller.name, HOOK_NAMES, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"known hooks: {', '.join(HOOK_NAMES)}"
            raise TypeError(f"unknown hook {caller.name!r}; {hint}")
        if any(impl.wrapper or impl.hookwrapper for impl in caller.get_hookimpls()):
            raise TypeError(f"hook {caller.name!r} is a wrapper; a plugin must not stand around others' hooks")
    marked = {caller.name for caller in callers}
    for name in HOOK_NAMES:
        if name not in marked and callable(getattr(plugin, name, None)):
            raise TypeError(f"{name!r} is defined but not marked: put @hookimpl (distill_core.plugin) above it")
    if not marked:
        raise TypeError(f"{plugin!r} implements no hook; expected at least one of: {', '.join(HOOK_NAMES)}")


def read_components(manager: pluggy.PluginManager) -> tuple[Component, ...]:
    """Call ``distill_components`` and check what it declares."""
    declared: list[Component] = []
    for impl in manager.hook.distill_components.get_hookimpls():
        answer = impl.function()
        if not isinstance(answer, Iterable) or isinstance(answer, str | bytes):
            raise TypeError(f"distill_components returned {type(answer).__name__}, expected a sequence of Component")
        declared.extend(answer)
    seen: set[tuple[str, str]] = set()
    for component in declared:
        check_component(component)
        if (component.kind, component.name) in seen:
            raise ValueError(f"{component.kind} {component.name!r} is declared twice; names are unique for each kind")
        seen.add((component.kind, component.name))
    return tuple(declared)


def check_component(component: Any) -> None:
    """Raise a sentence about the first thing wrong with a declaration."""
    if not isinstance(component, Component):
        raise TypeError(f"distill_components gave {component!r}, expected a distill_core.plugin.Component")
    label = f"{component.kind} {component.name!r}"
    if component.api > PLUGIN_API:
        raise ValueError(
            f"{label} was written for plugin interface {component.api}, this distill-core has {PLUGIN_API}: "
            "upgrade distill-core or install an older version of the plugin"
        )
    if not _NAME.fullmatch(component.name):
        raise ValueError(f"{label}: a name is kebab-case (a-z, 0-9 and single -), for example 'total-variation'")
    if not _NAME.fullmatch(component.kind):
        raise ValueError(f"{label}: a kind is kebab-case, one of {', '.join(KINDS)}")
    near = difflib.get_close_matches(component.kind, KINDS, 1, cutoff=0.85)  # `tracker` is not a slip for `teacher`
    if component.kind not in KINDS and near:
        raise ValueError(f"{label}: unknown kind {component.kind!r}; did you mean {near[0]!r}?")
    for field in ("target", "options"):
        value = getattr(component, field)
        if not _TARGET.fullmatch(value):
            raise ValueError(f"{label}: {field} is {value!r}, expected 'package.module:attribute'")
