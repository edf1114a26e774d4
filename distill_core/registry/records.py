"""What the registry knows: one record per plugin found, one entry per component that can be used."""

from __future__ import annotations

import traceback
from dataclasses import dataclass, field
from typing import Any, Literal

from distill_core.plugin import Component, Needs, Provides

Status = Literal["ok", "clash", "failed", "missing", "duplicate", "disabled"]

PROBLEMS: tuple[Status, ...] = ("failed", "missing", "duplicate", "clash")
"""Statuses that `distill plugins doctor` reports as problems."""


@dataclass
class PluginRecord:
    """What happened to one plugin.

    Args:
        plugin: identity: the entry point's name (the distribution's where two plugins share a name).
        distribution: name of the installed distribution, or the path of a one-file plugin.
        version: version of the distribution.
        status: ``ok``; ``clash``: works, but shares its entry-point name with another plugin; ``failed``;
            ``missing``: named in ``DISTILL_PLUGINS`` but not installed; ``duplicate``: a second copy of an installed
            distribution, not loaded; ``disabled``: by the environment.
        stage: where it failed: ``discovery``, ``import``, ``register``, ``hooks``, ``components``, ``hook:NAME``.
        error: one line.
        traceback: the whole traceback.
        location: directory or file it was found in.
        components: the declarations taken from it.
        entry: the entry point's value, ``package.module``; empty for a one-file plugin.
    """

    plugin: str
    distribution: str
    version: str
    status: Status = "ok"
    stage: str = ""
    error: str = ""
    traceback: str = ""
    location: str = ""
    components: tuple[Component, ...] = field(default=())
    entry: str = ""

    @property
    def is_problem(self) -> bool:
        return self.status in PROBLEMS

    def blame(self, status: Status, stage: str, error: BaseException) -> None:
        """Keep the stage, the message on one line, and the full traceback of ``error``."""
        self.status = status
        self.stage = stage
        message = " ".join(str(error).split())
        self.error = f"{type(error).__name__}: {message}" if message else type(error).__name__
        self.traceback = "".join(traceback.format_exception(error)).rstrip()

    def describe(self) -> str:
        """One line: ``acme 1.0 (failed at import: ModuleNotFoundError: ...)``."""
        at = f" at {self.stage}" if self.stage else ""
        because = f": {self.error}" if self.error else ""
        return f"{self.plugin} {self.version} ({self.status}{at}{because})"


@dataclass(frozen=True)
class Registered:
    """A component that can be used, with the plugin it came from.

    Args:
        component: its declaration.
        plugin: identity of its plugin.
        version: version of its plugin.
        distribution: distribution it was installed with.
        entry_point: the entry point's own name (equal to ``plugin`` unless two plugins share it).
        value: the target itself for components registered in-process, else None.
        options_model: the options model itself for components registered in-process, else None.
    """

    component: Component
    plugin: str
    version: str
    distribution: str = ""
    entry_point: str = ""
    value: Any = None
    options_model: Any = None

    @property
    def id(self) -> str:
        """``plugin:name``, unique for its kind."""
        return f"{self.plugin}:{self.component.name}"

    def needs(self, options: Any) -> Needs:
        """What it asks of teacher signals with these options (the options model may refine its declaration)."""
        refine = getattr(options, "needs", None)
        result = refine(self.component.needs) if callable(refine) else self.component.needs
        if not isinstance(result, Needs):
            raise TypeError(f"{self.component.options}.needs() of {self.id} returned {result!r}, expected a Needs")
        return result

    def provides(self, options: Any) -> Provides:
        """What it gives with these options (the options model may refine its declaration)."""
        refine = getattr(options, "provides", None)
        result = refine(self.component.provides) if callable(refine) else self.component.provides
        if not isinstance(result, Provides):
            raise TypeError(
                f"{self.component.options}.provides() of {self.id} returned {result!r}, expected a Provides"
            )
        return result
