"""Has a selector what it reads? Known from the run file; no torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from distill_core.config import RunConfig
from distill_core.engine.run_file.loading import Location
from distill_core.engine.run_file.schema import Problem

AT: Location = ("select", "selector")


def selection_problems(config: RunConfig, components: Mapping[Location, Any]) -> Iterator[Problem]:
    """What a selector needs and the run file does not give, and a target that nobody reads."""
    component = components.get(AT)
    wanted = frozenset() if component is None else component.entry.needs(component.options).signals
    if component is not None and "target" in wanted and config.data.target is None:
        yield Problem(
            AT,
            f"{component.entry.id} aims at a target, but the file has none: add `data.target` with a source of "
            "examples of what the student shall be good at (not those of data.eval)",
        )
    if component is not None and "labels" in wanted and config.task is None:
        yield Problem(
            AT,
            f"{component.entry.id} needs a class per sequence, but the file has no `task:`: add one, or "
            "choose a selector that needs no labels",
        )
    yield from _learned_from(config)
    if config.active is not None and config.select is None:
        yield Problem(("active",), "active rounds choose with `select`, and there is no such section: add it")
    yield from _active_problems(config, components)
    if config.data.target is not None and (config.select is None or (component is not None and "target" not in wanted)):
        whom = "the file has no `select:` section" if component is None else f"{component.entry.id} reads none"
        yield Problem(("data", "target"), f"a target serves selectors that aim at it, and {whom}: remove it")


def _active_problems(config: RunConfig, components: Mapping[Location, Any]) -> Iterator[Problem]:
    """Baselines of active rounds, and labels that cannot be learned from again."""
    if config.active is None:
        return
    taken = {"teacher", *config.trainings(), *config.evaluate.models}
    for name in config.active.compare:
        at: Location = ("active", "compare", name)
        if name in taken:
            yield Problem(at, f"a model of this run is called {name!r} already: give the baseline another name")
        component = components.get(at)
        wanted = frozenset() if component is None else component.entry.needs(component.options).signals
        for signal, given, remedy in (
            ("target", config.data.target, "add `data.target`"),
            ("labels", config.task, "add a `task:`"),
        ):
            if component is not None and signal in wanted and given is None:
                yield Problem(at, f"{component.entry.id} needs {signal}, which the file has not: {remedy}")
    for capture in config.captures:
        if config.active.learns_from == "all" and (capture.joint or capture.update is not None):
            what = "joint: true" if capture.joint else "update"
            yield Problem(
                ("active", "learns_from"),
                f"all labels bought so far are copied from round to round, which the capture {capture.name!r} "
                f"({what}) cannot: say learns_from: round",
            )


def _learned_from(config: RunConfig) -> Iterator[Problem]:
    """Trainings that learn from more than was selected."""
    for name, training in config.trainings().items():
        at: Location = ("train", "learns_from") if name == "student" else ("compare", name, "learns_from")
        if training.learns_from == "selected":
            continue
        if config.select is None:
            yield Problem(at, "there is no `select:` section, so every training learns from all: remove it")
        elif training.teacher == "store":
            yield Problem(
                at,
                f"{name} learns from a store, which holds what `select` kept and nothing else: use teacher: live or "
                "none, or learn from what was selected",
            )
