"""Do the captures of a run fit their teachers? Names, kinds of target, temperatures, updates; no torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from distill_core.config import CaptureConfig, RunConfig, SparseConfig
from distill_core.engine.run_file.loading import Location
from distill_core.engine.run_file.schema import Problem, suggestion
from distill_core.engine.run_file.supply import SAMPLED_METHODS, captured_teachers, located_captures
from distill_core.errors import DistillError


def capture_problems(config: RunConfig, components: Mapping[Location, Any]) -> Iterator[Problem]:
    names: set[str] = set()
    for at, capture in located_captures(config):
        if capture.name in names:
            yield Problem((*at, "name"), f"a second capture is called {capture.name!r}: give each a name of its own")
        names.add(capture.name)
        yield from sparse_problems(at, capture)
        yield from _captured_teacher_problems(at, capture, config, components)


def sparse_problems(at: Location, capture: CaptureConfig | SparseConfig) -> Iterator[Problem]:
    """Rules of a sparsity by itself."""
    if capture.method in SAMPLED_METHODS and len(capture.temperatures) != 1:
        yield Problem(
            (*at, "temperatures"),
            f"method {capture.method} draws its sample at one temperature, received {capture.temperatures}: keep one, "
            "or use method: topk, which keeps a tail for each",
        )
    if len(set(capture.temperatures)) != len(capture.temperatures):
        yield Problem((*at, "temperatures"), f"lists a temperature twice: {capture.temperatures}")
    if isinstance(capture, CaptureConfig) and capture.method == "topk" and capture.draws != 1:
        yield Problem((*at, "draws"), f"method topk draws nothing, received draws: {capture.draws}; leave it out")


def _captured_teacher_problems(
    at: Location, capture: CaptureConfig, config: RunConfig, components: Mapping[Location, Any]
) -> Iterator[Problem]:
    teachers = captured_teachers(capture, config)
    if not config.all_teachers:
        yield Problem(at, "a capture needs a teacher: add a `teacher:` section")
        return
    for index, name in enumerate(capture.teachers or ()):
        if name not in config.all_teachers:
            hint = suggestion(name, config.all_teachers, what="teachers of this file")
            yield Problem((*at, "teachers", index), f"no teacher is called {name!r}{hint}")
    if capture.joint and (len(teachers) < 2 or capture.method in SAMPLED_METHODS):
        yield Problem((*at, "joint"), _joint_refusal(capture, teachers))
    if len(teachers) > 1 and not capture.joint:
        yield Problem(
            (*at, "teachers"),
            f"one capture of several teachers ({', '.join(teachers)}) mixes their distributions, which needs them on "
            "the union of supports (joint: true); to mix losses, give each teacher a capture of its own",
        )
    if capture.update is not None:
        yield from _update_problems((*at, "update"), capture, teachers)
    if capture.known and (capture.joint or capture.update is not None):
        other = "joint" if capture.joint else "update"
        yield Problem((*at, "known"), f"copies whole sequences of one teacher's store, and this capture has `{other}:`")
    for index, directory in enumerate(capture.known):
        if not (Path(directory).expanduser() / "store.json").is_file():
            yield Problem((*at, "known", index), f"there is no store in {directory}")
    kind = "sampled" if capture.method in SAMPLED_METHODS else "exact"
    for name in teachers:
        location = ("teacher",) if name == "teacher" and config.teacher is not None else ("teachers", name)
        teacher = components.get(location)
        if teacher is None:
            continue
        provides = teacher.entry.provides(teacher.options)
        if "targets" not in provides.signals or kind not in provides.targets:
            yield Problem(
                (*at, "method"),
                f"{capture.method} needs {kind} targets, but the teacher {teacher.entry.id} gives "
                f"{listed(provides.targets) if 'targets' in provides.signals else 'no targets'}",
            )
        missing = missing_temperatures(tuple(capture.temperatures), provides.temperatures)
        if missing:
            yield Problem(
                (*at, "temperatures"),
                f"the teacher {teacher.entry.id} answers at {list(provides.temperatures or ())}, not at {missing}",
            )


def _update_problems(at: Location, capture: CaptureConfig, teachers: list[str]) -> Iterator[Problem]:
    """What can be known of an update before the new teacher is loaded."""
    from distill_core.store import StoreReader

    assert capture.update is not None
    if capture.joint or len(teachers) > 1 or capture.method == "multinomial":
        what = "several teachers" if capture.joint or len(teachers) > 1 else "a multinomial sample"
        yield Problem(at, f"an update compares one teacher's exact probabilities with the old ones, not {what}")
        return
    try:
        meta = StoreReader(Path(capture.update.base).expanduser(), checksums=False).meta
    except DistillError as error:
        yield Problem((*at, "base"), str(error))
        return
    asked = {
        "method": capture.method,
        "k": capture.k,
        "temperatures": tuple(map(float, capture.temperatures)),
        "draws": capture.draws,
    }
    for name, value in asked.items():
        held = getattr(meta, name)
        if held != value:
            yield Problem(
                (*at[:-1], name),
                f"is {value}, but the store {capture.update.base} holds {held}: an update keeps the form of the labels",
            )


def _joint_refusal(capture: CaptureConfig, teachers: list[str]) -> str:
    if len(teachers) < 2:
        return "records several teachers on the union of their supports, but this names one: leave it out"
    return f"needs exact targets on the union of supports: method: topk, not {capture.method}"


def missing_temperatures(asked: tuple[float, ...], given: tuple[float, ...] | None) -> list[float]:
    return [] if given is None else [temperature for temperature in asked if temperature not in given]


def listed(names: Any) -> str:
    return ", ".join(sorted(names)) or "nothing"
