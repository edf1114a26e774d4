"""Is a run file good? Everything that can be known without torch, before anything runs, all problems at once.

A component's options model may take part: ``needs(declared)`` and ``provides(declared)`` refine what its component
declares, and ``problems() -> list[str]`` says what is wrong with the options on this machine, such as a file that is
not there.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from distill_core.config import ComponentRef, ObjectiveRef, RunConfig, SparseConfig
from distill_core.engine.run_file.capabilities import capability_problems
from distill_core.engine.run_file.loading import Location, RawRunFile, parse_path, read_run_file
from distill_core.engine.run_file.models_on_disk import model_problems
from distill_core.engine.run_file.schema import Problem, parse_config
from distill_core.errors import ConfigError, PluginError
from distill_core.options import PartRef, ScheduleRef

if TYPE_CHECKING:
    from distill_core.registry import Registered, Registry


@dataclass(frozen=True)
class Resolved:
    """A component of the run file: found, its options valid."""

    entry: Registered
    options: BaseModel


Components = dict[Location, Resolved]
"""The components of a run file by the place they are named at."""


@dataclass(frozen=True)
class CheckedRun:
    """A run file that passed.

    Args:
        config: the config.
        components: every component it names.
        raw: the file, for messages.
    """

    config: RunConfig
    components: Components
    raw: RawRunFile


def load_run_file(path: Path | str, overrides: Iterable[str] = (), *, registry: Registry) -> CheckedRun:
    """Read and check a run file.

    Raises:
        ConfigError: with all problems, each with its path and line.
    """
    return check_run(read_run_file(path, overrides), registry=registry)


def check_run(raw: RawRunFile, *, registry: Registry) -> CheckedRun:
    """Check what was read; as :func:`load_run_file`."""
    config, problems = parse_config(raw)
    components: Components = {}
    if config is None:
        problems += component_problems(references_in(raw.data), registry, components)
    else:
        damaged = {problem.location[:1] for problem in problems}
        problems += component_problems(references(config), registry, components)
        damaged |= {problem.location[:1] for problem in problems}
        later = [*capability_problems(config, components), *model_problems(config)]
        if not problems:
            later += plugin_problems(config, registry)
        # A section that lost an entry to an error above would be blamed for what it lost.
        top_level = any(len(problem.location) == 1 for problem in problems)
        problems += [p for p in later if p.location[:1] not in damaged and not top_level]
    if problems or config is None:
        ordered = sorted(problems, key=lambda problem: _line(raw, problem.location))
        raise ConfigError([problem.text(raw) for problem in ordered], source=raw.source)
    return CheckedRun(config, components, raw)


def _line(raw: RawRunFile, location: Location) -> int:
    known = [raw.lines[location[:n]] for n in range(len(location), 0, -1) if location[:n] in raw.lines]
    return known[0] if known else 0


TRAINING_PARTS = {"rollout": "rollout", "aggregate": "aggregator", "order": "sampler", "vocabulary": "aligner"}
"""Fields of a training that name a component, and its kind; ``vocabulary`` may be a word instead."""


def references(config: RunConfig) -> Iterator[tuple[Location, str, ComponentRef]]:
    """Every component the config names: place, kind, reference. Schedules inside options come with their owners."""
    if config.teacher is not None:
        yield ("teacher",), "teacher", config.teacher
    for name, ref in (config.teachers or {}).items():
        yield ("teachers", name), "teacher", ref
    if config.task is not None:
        yield ("task",), "task", config.task
    for split in config.data.splits:
        section = getattr(config.data, split)
        yield ("data", split, "source"), "source", section.source
        for index, ref in enumerate(section.filters):
            yield ("data", split, "filters", index), "filter", ref
        for index, ref in enumerate(section.transforms):
            yield ("data", split, "transforms", index), "transform", ref
    if config.synthesize is not None:
        yield ("synthesize",), "synthesizer", config.synthesize
    if config.select is not None:
        yield ("select", "selector"), "selector", config.select.selector
    if config.active is not None:
        yield ("active", "first"), "selector", config.active.first
        for name, ref in config.active.compare.items():
            yield ("active", "compare", name), "selector", ref
    for field, kind in TRAINING_PARTS.items():
        if isinstance(ref := getattr(config.train, field), ComponentRef):
            yield ("train", field), kind, ref
    yield from _support_schedule(("train", "sparse", "k"), config.train.sparse)
    for index, objective in enumerate(config.train.objectives):
        yield from _objective(("train", "objectives", index), objective)
    for name, overrides in config.compare.items():
        for field, kind in TRAINING_PARTS.items():
            if isinstance(ref := getattr(overrides, field), ComponentRef):
                yield ("compare", name, field), kind, ref
        yield from _support_schedule(("compare", name, "sparse", "k"), overrides.sparse)
        for index, objective in enumerate(overrides.objectives or ()):
            yield from _objective(("compare", name, "objectives", index), objective)
    for index, ref in enumerate(config.evaluate.evaluators):
        yield ("evaluate", "evaluators", index), "evaluator", ref


def _support_schedule(at: Location, sparse: SparseConfig | None) -> Iterator[tuple[Location, str, ComponentRef]]:
    if sparse is not None and isinstance(sparse.k, ScheduleRef):
        yield at, "schedule", _as_component(sparse.k)


def _objective(at: Location, ref: ObjectiveRef) -> Iterator[tuple[Location, str, ComponentRef]]:
    yield at, "objective", ref
    if ref.row_weights is not None:
        yield (*at, "row_weights"), "row-weight", ref.row_weights
    if isinstance(ref.weight, ScheduleRef):
        yield (*at, "weight"), "schedule", _as_component(ref.weight)


def _as_component(ref: PartRef) -> ComponentRef:
    return ComponentRef(use=ref.use, **ref.options)


_PLACES = (
    (("teacher",), "teacher"),
    (("task",), "task"),
    (("teachers", "*"), "teacher"),
    (("data", "*", "source"), "source"),
    (("data", "*", "filters", "*"), "filter"),
    (("data", "*", "transforms", "*"), "transform"),
    (("synthesize",), "synthesizer"),
    (("select", "selector"), "selector"),
    (("active", "first"), "selector"),
    (("active", "compare", "*"), "selector"),
    *((("train", field), kind) for field, kind in TRAINING_PARTS.items()),
    *((("compare", "*", field), kind) for field, kind in TRAINING_PARTS.items()),
    *(((*at, "sparse", "k"), "schedule") for at in (("train",), ("compare", "*"))),
    (("train", "objectives", "*"), "objective"),
    (("compare", "*", "objectives", "*"), "objective"),
    (("train", "objectives", "*", "row_weights"), "row-weight"),
    (("compare", "*", "objectives", "*", "row_weights"), "row-weight"),
    (("evaluate", "evaluators", "*"), "evaluator"),
)


def references_in(data: Any) -> Iterator[tuple[Location, str, ComponentRef]]:
    """As :func:`references`, from plain data that is no valid config; skips what is no reference."""
    for pattern, kind in _PLACES:
        for location, value in _matching(data, pattern, ()):
            if isinstance(value, dict) and isinstance(value.get("use"), str):
                own = ("use", "name", "weight", "source", "row_weights") if kind == "objective" else ("use",)
                options = {str(key): option for key, option in value.items() if key not in own}
                yield location, kind, ComponentRef(use=value["use"], **options)


def _matching(data: Any, pattern: tuple[str, ...], at: Location) -> Iterator[tuple[Location, Any]]:
    if not pattern:
        yield at, data
    elif isinstance(data, dict):
        for key, value in data.items():
            if pattern[0] in ("*", key):
                yield from _matching(value, pattern[1:], (*at, key))
    elif isinstance(data, list) and pattern[0] == "*":
        for index, value in enumerate(data):
            yield from _matching(value, pattern[1:], (*at, index))


def component_problems(
    found: Iterable[tuple[Location, str, ComponentRef]], registry: Registry, components: Components
) -> list[Problem]:
    """Resolve every reference into ``components``; the problems of those that cannot be."""
    problems: list[Problem] = []
    pending = list(found)
    while pending:
        location, kind, ref = pending.pop(0)
        try:
            entry = registry.find(kind, ref.use)
        except PluginError as error:
            problems.append(Problem((*location, "use"), str(error)))
            continue
        try:
            options = registry.options(kind, ref)
        except ConfigError as error:
            problems += [_option_problem(location, problem) for problem in error.problems]
            continue
        except PluginError as error:
            problems.append(Problem(location, str(error)))
            continue
        components[location] = Resolved(entry, options)
        problems += own_problems(location, entry, options)
        for field in type(options).model_fields:
            pending += _parts_in(getattr(options, field), (*location, field))
    return problems


def _parts_in(value: Any, at: Location) -> Iterator[tuple[Location, str, ComponentRef]]:
    """References in an option's value: itself, or the entries of a mapping or a list."""
    if isinstance(value, PartRef):
        yield at, value.KIND, _as_component(value)
    elif isinstance(value, Mapping):
        for key, one in value.items():
            yield from _parts_in(one, (*at, str(key)))
    elif isinstance(value, list | tuple):
        for index, one in enumerate(value):
            yield from _parts_in(one, (*at, index))


def _option_problem(location: Location, problem: str) -> Problem:
    """A sentence that starts with an option's path, as a problem at that place."""
    path, separator, message = problem.partition(": ")
    if not separator or re.fullmatch(r"[\w.\[\]]+", path) is None:
        return Problem(location, problem)
    return Problem((*location, *parse_path(path)), message)


def own_problems(location: Location, entry: Registered, options: BaseModel) -> list[Problem]:
    """What a component's options model says about its options on this machine."""
    check = getattr(options, "problems", None)
    if not callable(check):
        return []
    try:
        return [_option_problem(location, str(problem)) for problem in check()]
    except Exception as error:
        return [Problem(location, f"{entry.id} failed to check its options: {type(error).__name__}: {error}")]


def plugin_problems(config: RunConfig, registry: Registry) -> list[Problem]:
    """What plugins say in ``distill_check_plan``; a failing hook is reported by the registry and stops nothing."""
    answers = registry.call_hook("distill_check_plan", plan=config)
    return [Problem((), str(problem)) for answer in answers for problem in answer or ()]
