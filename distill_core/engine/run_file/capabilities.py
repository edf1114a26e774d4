"""Do the parts of a run fit together? Signals asked for and given, kinds of target, temperatures; no torch."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from pydantic import BaseModel

from distill_core.completions import TEXT
from distill_core.config import CaptureConfig, RunConfig, SparseConfig, TrainConfig
from distill_core.engine.run_file.capture_capabilities import (
    capture_problems,
    listed,
    missing_temperatures,
    sparse_problems,
)
from distill_core.engine.run_file.loading import Location, path_text
from distill_core.engine.run_file.schema import Problem, suggestion
from distill_core.engine.run_file.selection_problems import selection_problems
from distill_core.engine.run_file.supply import (
    MODEL,
    SAMPLED_METHODS,
    Supply,
    aligner_of,
    asked_teachers,
    located_captures,
    readers_of,
    supply_of,
)
from distill_core.engine.run_file.task_problems import task_problems
from distill_core.plugin import Needs

Components = Mapping[Location, Any]

ASKING = ("synthesizer", "filter")
"""Kinds of components that ask a teacher of the run file, by an option ``teacher`` or the first."""


def capability_problems(config: RunConfig, components: Components) -> list[Problem]:
    """Every mismatch between the parts; components that could not be resolved are passed over."""
    problems = [
        *_teacher_problems(config),
        *_asking_problems(config, components),
        *_writer_problems(config, components),
        *selection_problems(config, components),
        *capture_problems(config, components),
        *_student_problems(config),
        *task_problems(config, components),
    ]
    seen: set[tuple[Location, str]] = set()
    for name, training in config.trainings().items():
        found = [*_training_problems(name, training, config, components)]
        for problem in [*found, *_aligner_problems(name, training, config, components)]:
            if (problem.location, problem.message) not in seen:
                seen.add((problem.location, problem.message))
                problems.append(problem)
    return problems


def _student_problems(config: RunConfig) -> Iterator[Problem]:
    cut, teachers = config.student.init.from_teacher, config.all_teachers
    if cut is None:
        return
    at: Location = ("student", "init", "from_teacher")
    if cut.teacher is not None and cut.teacher not in teachers:
        hint = suggestion(cut.teacher, teachers, what="teachers of this file")
        yield Problem((*at, "teacher"), f"no teacher is called {cut.teacher!r}{hint}")
    elif cut.teacher is None and len(teachers) != 1:
        yield Problem(
            at,
            f"takes layers of the teacher: exactly one `teacher:` is expected, the run file names {len(teachers)}"
            + (f" ({', '.join(teachers)}): say which, `teacher: NAME` beside layers" if teachers else ""),
        )


def _teacher_problems(config: RunConfig) -> Iterator[Problem]:
    if config.teacher is not None and config.teachers:
        yield Problem(("teachers",), "`teacher` and `teachers` are both given: name all of them under `teachers`")
    for name in config.compare:
        if name in ("student", "teacher"):
            yield Problem(("compare", name), f"the name {name!r} is taken by the run itself: choose another")


def _asking_problems(config: RunConfig, components: Components) -> Iterator[Problem]:
    """The synthesizer and the filters that ask one of the teachers: is it there, and can it give that?"""
    for at, component in components.items():
        if component.entry.component.kind not in ASKING:
            continue
        wanted = component.entry.needs(component.options).signals - {MODEL}
        if wanted:
            yield from _named_teacher_problems(config, components, at, wanted)


def _named_teacher_problems(
    config: RunConfig, components: Components, at: Location, wanted: frozenset[str]
) -> Iterator[Problem]:
    component = components[at]
    asked = asked_teachers(component.options, config)
    option = "teachers" if getattr(component.options, "teachers", None) else "teacher"
    unknown = [name for name in asked if config.all_teachers and name not in config.all_teachers]
    for name in unknown:
        hint = suggestion(name, config.all_teachers, what="teachers of this file")
        yield Problem((*at, option), f"no teacher is called {name!r}{hint}")
    if unknown:
        return
    gives = {}
    for one in config.all_teachers:
        single = one == "teacher" and config.teacher is not None
        teacher = components.get(("teacher",) if single else ("teachers", one))
        if teacher is None:
            return
        gives[one] = teacher.entry.provides(teacher.options).signals
    able = [one for one, signals in gives.items() if wanted <= signals]
    for name in asked:
        if able and name not in able:
            yield Problem(
                at,
                f"{component.entry.id} asks the teacher {name!r}, which gives {listed(gives[name])}, for "
                f"{listed(wanted)}: name one that can with `{option}: {able[0]}`",
            )


def _writer_problems(config: RunConfig, components: Components) -> Iterator[Problem]:
    """Synthesizers, rollouts and others that ask for written text need a teacher that writes."""
    places = [("teacher",)] if config.teacher is not None else [("teachers", name) for name in config.teachers or ()]
    teachers = [components[place] for place in places if place in components]
    given = {teacher.entry.id: teacher.entry.provides(teacher.options).signals for teacher in teachers}
    if len(teachers) < len(places) or any(TEXT in signals for signals in given.values()):
        return
    for location, component in components.items():
        if (
            component.entry.component.kind == "objective"
            or TEXT not in component.entry.needs(component.options).signals
        ):
            continue
        found = "; ".join(f"{name} gives {listed(signals)}" for name, signals in given.items()) or "the file has none"
        yield Problem(location, f"{component.entry.id} needs a teacher that writes text ({TEXT}): {found}")


def _training_problems(
    name: str, training: TrainConfig, config: RunConfig, components: Components
) -> Iterator[Problem]:
    changed = config.compare[name].model_fields_set if name in config.compare else frozenset()
    home: Location = ("compare", name) if changed else ("train",)
    own_objectives = "objectives" in changed and config.compare[name].objectives is not None
    at: Location = (("compare", name) if own_objectives else ("train",)) + ("objectives",)
    asking = []
    for index in range(len(training.objectives)):
        for location in ((*at, index), (*at, index, "row_weights")):
            component = components.get(location)
            if component is not None:
                asking.append((index, location, component, component.entry.needs(component.options)))
    names = [ref.name or ref.use for ref in training.objectives]
    for index, label in enumerate(names):
        if label in names[:index]:
            yield Problem((*at, index, "name"), f"two objectives are called {label!r}: give one a `name` of its own")
    if training.sparse is not None and training.teacher == "live":
        yield from sparse_problems(("train", "sparse"), training.sparse)
    if training.rollout is not None and training.teacher == "store":
        yield Problem(
            ("compare", name, "rollout") if "rollout" in changed else ("train", "rollout"),
            f"{training.rollout.use} writes new sequences in every step, which a store does not hold: train.teacher: "
            "live, or none where no objective needs a teacher",
        )
    if training.order is not None:
        yield from _order_problems(name, training, components, changed)
    if training.aggregate is not None:
        yield from _aggregate_problems(name, training, config, changed)
    sources = [objective.source for objective in training.objectives]
    read: dict[str | None, set[float]] = {}
    for index, location, component, needs in asking:
        if not needs.signals:
            continue
        source = sources[index]
        supply = supply_of(name, training, config, components, source=source)
        if isinstance(supply, Problem):
            yield Problem((*at, index, "source"), supply.message) if source is not None else supply
            continue
        read.setdefault(source, set()).update(needs.temperatures or ())
        if supply.mixed and len(read[source]) > 1:
            yield Problem(
                location,
                f"{supply.what} is mixed at one temperature, but objectives read {sorted(read[source])}: give them the "
                "same one",
            )
        # An inherited objective that clashes with an override is the override's problem.
        place = home if changed and not own_objectives else location
        who = component.entry.id if place == location else f"{component.entry.id} ({path_text(location)})"
        yield from _fit(place, who, component.options, needs, supply)


def _order_problems(
    name: str, training: TrainConfig, components: Components, changed: Collection[str]
) -> Iterator[Problem]:
    """A sampler that measures the teacher asks it about the training data itself."""
    at: Location = ("compare", name, "order") if "order" in changed else ("train", "order")
    component = components.get(at)
    if component is None or training.teacher == "live":
        return
    needs = component.entry.needs(component.options)
    if needs.signals:
        yield Problem(
            at,
            f"{component.entry.id} measures the teacher, which answers for given labels only where it is live: "
            f"train.teacher is {training.teacher}, expected live",
        )


def _aligner_problems(name: str, training: TrainConfig, config: RunConfig, components: Components) -> Iterator[Problem]:
    """Does what is captured or asked for survive the aligner that this training names?"""
    found = aligner_of(name, training, config, components)
    if found is None or training.teacher == "none":
        return
    at, aligner = found
    provides = aligner.entry.provides(aligner.options)
    asked: list[tuple[Location, CaptureConfig | SparseConfig]] = []
    if training.teacher == "live" and training.sparse is not None:
        asked.append((("train", "sparse"), training.sparse))
    for place, capture in located_captures(config):
        readers = readers_of(capture.name, config)
        if name not in readers:
            continue
        asked.append((place, capture))
        others = [other for other, reader in readers.items() if reader.vocabulary != training.vocabulary]
        if others:
            yield Problem(
                at,
                f"the capture {capture.name!r} is made through the aligner {aligner.entry.id}, but {', '.join(others)} "
                "reads it with another `vocabulary`: give each a capture of its own",
            )
    for place, sparsity in asked:
        kind = "sampled" if sparsity.method in SAMPLED_METHODS else "exact"
        if kind not in provides.targets:
            yield Problem(
                (*place, "method"),
                f"{sparsity.method} draws a sample, but the aligner {aligner.entry.id} translates "
                f"{listed(provides.targets)} targets alone: use method: topk",
            )
        missing = missing_temperatures(tuple(sparsity.temperatures), provides.temperatures)
        if missing:
            yield Problem(
                (*place, "temperatures"),
                f"the aligner {aligner.entry.id} answers at {list(provides.temperatures or ())}, not at {missing}",
            )


def _aggregate_problems(
    name: str, training: TrainConfig, config: RunConfig, changed: Collection[str]
) -> Iterator[Problem]:
    at: Location = ("compare", name, "aggregate") if "aggregate" in changed else ("train", "aggregate")
    joint = [capture.name for capture in config.captures if capture.joint and capture.name in training.sources_read]
    if training.teacher == "store" and not joint:
        yield Problem(
            at,
            "mixes distributions of several teachers, but none of the captures this training reads "
            f"({listed(training.sources_read)}) recorded them together: capture: {{teachers: [...], joint: true}}",
        )
    if training.teacher == "live" and len(config.all_teachers) < 2:
        yield Problem(at, "mixes distributions of several teachers, but the run file names fewer than two: `teachers:`")
    if training.teacher == "none":
        yield Problem(at, "mixes distributions of teachers, but train.teacher is none")


def _fit(at: Location, who: str, options: BaseModel, needs: Needs, supply: Supply) -> Iterator[Problem]:
    """Does one objective's need meet what the training is given?"""
    lacking = sorted(needs.signals - supply.signals)
    if lacking:
        hint = "" if supply.live else "; only a live teacher gives more than targets: train.teacher: live"
        yield Problem(at, f"{who} needs {', '.join(lacking)}, but {supply.what} gives {listed(supply.signals)}{hint}")
    if "targets" not in needs.signals or "targets" in lacking:
        return
    head = getattr(options, "view", "stored") == "head"
    if supply.method == "multinomial" and head:
        yield Problem(
            at, f"{who} asks for view: head, but {supply.what} is a multinomial sample, which has no exact part: "
            f"use {supply.setting}.method: threshold or topk"
        )  # fmt: skip
    elif supply.method in SAMPLED_METHODS and "sampled" not in needs.targets and not head:
        view = "set `view: head` on the objective, or " if supply.method == "threshold" else ""
        yield Problem(
            at,
            f"{who} is not linear in the teacher, but {supply.what} gives sampled targets, which would bias it: "
            f"{view}use {supply.setting}.method: topk",
        )
    if needs.temperatures is None:
        if supply.temperatures is not None:
            yield Problem(
                at,
                f"{who} takes its temperature from a schedule that does not list its `values`, but {supply.what} holds "
                f"only {list(supply.temperatures)}: list the values and capture them, or use a live teacher",
            )
        return
    missing = missing_temperatures(needs.temperatures, supply.temperatures)
    if missing:
        remedy = (
            "add it there"
            if supply.method == "topk" and not supply.live
            else "a sample serves its own temperature alone"
        )
        yield Problem(
            at,
            f"{who} reads temperature {', '.join(map(str, missing))}, but {supply.what} holds "
            f"{list(supply.temperatures or ())}: {remedy} ({supply.setting}.temperatures), or use a live teacher",
        )
