"""What a plugin author imports: the hook marker, component declarations and the hook specifications.

Importing this module costs milliseconds: no torch, no transformers. A plugin's entry module should import nothing
else from the project; the targets of its components are imported at first use.

>>> from distill_core.plugin import hookimpl, objective
>>> @hookimpl
... def distill_components():
...     return [objective("total-variation", "distill_hello.losses:total_variation")]
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    import typer

PROJECT = "distill_core"
"""pluggy project name and entry-point group."""

PLUGIN_API = 1
"""Version of the plugin interface; a component that asks for a newer one is refused with a message."""

KINDS = (
    "teacher",
    "objective",
    "synthesizer",
    "evaluator",
    "source",
    "selector",
    "schedule",
    "aggregator",
    "row-weight",
    "filter",
    "transform",
    "rollout",
    "sampler",
    "aligner",
    "checker",
    "task",
)
"""Kinds known to the core. Kinds are open: a new kind is a Protocol and one line here."""

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@dataclass(frozen=True)
class Needs:
    """What a component asks of the teacher signals it will see.

    Args:
        signals: names of signals, e.g. ``{"targets"}``, ``{"targets", "hidden_states"}``; empty: no teacher needed.
        targets: kinds of target accepted: ``"exact"``, ``"sampled"`` or both. Only read if ``"targets"`` is needed.
        temperatures: temperatures at which targets are read; empty: none; None: not known beforehand (a continuous
            schedule), which only a teacher that answers at any temperature can serve.
    """

    signals: frozenset[str] = frozenset()
    targets: tuple[str, ...] = ("exact",)
    temperatures: tuple[float, ...] | None = ()


@dataclass(frozen=True)
class Provides:
    """What a teacher (or a store) can give.

    Args:
        signals: names of signals.
        targets: kinds of target: ``"exact"``, ``"sampled"``.
        temperatures: temperatures that can be asked for; None: any.
        over: what its distributions are over: ``"tokens"``, or ``"classes"`` where a run has a task.
    """

    signals: frozenset[str] = frozenset()
    targets: tuple[str, ...] = ()
    temperatures: tuple[float, ...] | None = None
    over: tuple[str, ...] = ("tokens",)


@dataclass(frozen=True)
class Component:
    """A component that a plugin offers: declared here, imported at first use.

    Args:
        kind: one of :data:`KINDS` (open: another string is allowed).
        name: kebab-case name, unique for its kind inside the plugin.
        target: ``"package.module:attribute"``, a factory called with one argument, the validated options
            (or an object with ``from_options(options)``).
        summary: one line for ``distill plugins list``.
        options: ``"package.module:Model"``, a torch-free pydantic model with ``extra="forbid"``. The model may define
            ``needs()``, ``provides()`` or ``expects(...)`` methods that refine what is declared here.
        needs: what it asks of teacher signals (objectives, evaluators).
        provides: what it gives (teachers).
        api: plugin interface version it was written for.
    """

    kind: str
    name: str
    target: str
    summary: str = ""
    options: str = "distill_core.options:NoOptions"
    needs: Needs = field(default_factory=Needs)
    provides: Provides = field(default_factory=Provides)
    api: int = PLUGIN_API


def objective(
    name: str,
    target: str,
    *,
    summary: str = "",
    options: str = "distill_core.options:DivergenceOptions",
    signals: Sequence[str] = ("targets",),
    targets: Sequence[str] = ("exact",),
    api: int = PLUGIN_API,
) -> Component:
    """Declare an objective; the defaults fit a ``@divergence`` function on exact targets."""
    needs = Needs(signals=frozenset(signals), targets=tuple(targets))
    return Component("objective", name, target, summary=summary, options=options, needs=needs, api=api)


def teacher(
    name: str,
    target: str,
    *,
    summary: str = "",
    options: str = "distill_core.options:NoOptions",
    signals: Sequence[str] = ("targets",),
    targets: Sequence[str] = ("exact", "sampled"),
    temperatures: Sequence[float] | None = None,
    over: Sequence[str] = ("tokens",),
    api: int = PLUGIN_API,
) -> Component:
    """Declare a teacher and what it can give (``temperatures=None``: any)."""
    provides = Provides(
        signals=frozenset(signals),
        targets=tuple(targets),
        temperatures=None if temperatures is None else tuple(temperatures),
        over=tuple(over),
    )
    return Component("teacher", name, target, summary=summary, options=options, provides=provides, api=api)


def component(
    kind: str,
    name: str,
    target: str,
    *,
    summary: str = "",
    options: str = "distill_core.options:NoOptions",
    signals: Sequence[str] = (),
    api: int = PLUGIN_API,
) -> Component:
    """Declare a component of any other kind (source, filter, schedule, evaluator, synthesizer, ...)."""
    return Component(
        kind, name, target, summary=summary, options=options, needs=Needs(signals=frozenset(signals)), api=api
    )


class Hooks:
    """Hook specifications. All collect (none is ``firstresult``); a failing hook never stops the host."""

    @hookspec
    def distill_components(self) -> Sequence[Component]:  # type: ignore[empty-body]
        """Return the components this plugin offers."""

    @hookspec
    def distill_commands(self) -> Sequence[tuple[str, typer.Typer]]:  # type: ignore[empty-body]
        """Return extra sub-commands for ``distill`` as ``(name, typer app)``."""

    @hookspec
    def distill_check_plan(self, plan: Any) -> Sequence[str]:  # type: ignore[empty-body]
        """Return problems of a plan before anything runs (sentences; empty: none)."""

    @hookspec
    def distill_run_started(self, run: Any) -> None:
        """Called once when a run starts."""

    @hookspec
    def distill_step_ended(self, run: Any, step: int, metrics: dict[str, float]) -> None:
        """Called after each optimizer step of a training stage."""

    @hookspec
    def distill_artifact_saved(self, run: Any, stage: str, path: str) -> None:
        """Called when a stage has written its output."""

    @hookspec
    def distill_run_ended(self, run: Any, error: BaseException | None) -> None:
        """Called once when a run ends, with the error if it failed."""

    @hookspec
    def distill_report_sections(self, run: Any) -> Sequence[tuple[str, str]]:  # type: ignore[empty-body]
        """Return extra report sections as ``(title, text)``; the text is escaped."""
