"""Where an objective of a training gets its teacher signals: from which capture or live teacher, and what it gives."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from distill_core.config import CaptureConfig, ComponentRef, RunConfig, TrainConfig
from distill_core.engine.run_file.loading import Location, path_text
from distill_core.engine.run_file.schema import Problem, suggestion
from distill_core.plugin import Provides

MODEL = "model"
"""Signal of what reads the student: a selector its directory, a synthesizer new ones and how records are cut."""

SAMPLED_METHODS = ("threshold", "multinomial")
"""Capture methods whose weights are a sample: unbiased, but right only in losses linear in the teacher."""


def asked_teachers(options: Any, config: RunConfig) -> list[str]:
    """Teachers that a component asks: those its option ``teachers`` or ``teacher`` names, else the run file's first."""
    several, one = (getattr(options, name, None) for name in ("teachers", "teacher"))
    if several:
        return list(several)
    return list(config.all_teachers)[:1] if one is None else [one]


@dataclass(frozen=True)
class Supply:
    """Where a training gets its teacher signals: a capture or a live teacher.

    Args:
        what: for messages.
        signals: names of signals it gives.
        method: how targets are made sparse.
        temperatures: that can be asked for; None: any.
        setting: the path to change for another method or temperature.
        live: whether a teacher answers while training.
        mixed: whether it is a mixture of several teachers, made at one temperature.
    """

    what: str
    signals: frozenset[str]
    method: str
    temperatures: tuple[float, ...] | None
    setting: str
    live: bool
    mixed: bool = False


def located_captures(config: RunConfig) -> Iterator[tuple[Location, CaptureConfig]]:
    """Every capture and where it stands in the run file."""
    for index, capture in enumerate(config.captures):
        yield (("capture", index) if isinstance(config.capture, list) else ("capture",)), capture


def captured_teachers(capture: CaptureConfig, config: RunConfig) -> list[str]:
    """Names of the teachers a capture asks."""
    return list(config.all_teachers) if capture.teachers is None else list(capture.teachers)


def readers_of(capture: str, config: RunConfig) -> dict[str, TrainConfig]:
    """The trainings that read a capture, by name."""
    trainings = config.trainings().items()
    return {name: one for name, one in trainings if one.teacher == "store" and capture in one.sources_read}


def aligner_of(
    name: str, training: TrainConfig, config: RunConfig, components: Mapping[Location, Any]
) -> tuple[Location, Any] | None:
    """The aligner a training names, resolved, and where; None where it names none or it could not be resolved."""
    if not isinstance(training.vocabulary, ComponentRef):
        return None
    own = name in config.compare and config.compare[name].vocabulary is not None
    at: Location = ("compare", name, "vocabulary") if own else ("train", "vocabulary")
    return None if at not in components else (at, components[at])


def supply_of(
    name: str, training: TrainConfig, config: RunConfig, components: Mapping[Location, Any], *, source: str | None
) -> Supply | Problem:
    """What feeds the objectives of a training that name this source, or why nothing can.

    Args:
        name: the training's, for where the problem stands.
        training: its settings.
        config: the run file.
        components: of the run file, resolved.
        source: a capture or a live teacher; None: the training's own.
    """
    changed = config.compare[name].model_fields_set if name in config.compare else frozenset()

    def place(field: str) -> Location:
        return ("compare", name, field) if field in changed else ("train", field)

    if training.teacher == "none":
        objectives = ", ".join(ref.use for ref in training.objectives)
        return Problem(
            place("teacher"),
            f"is none, but an objective ({objectives}) needs a teacher: use store or live, or cross-entropy alone",
        )
    if training.teacher == "live":
        mixed = _aggregator_signals(place, components)
        supply = _live(place("teacher"), training, config, components, source, mixed_signals=mixed)
        found = aligner_of(name, training, config, components)
        return supply if found is None or isinstance(supply, Problem) else _translated(supply, found[1])
    return _stored(place("store"), training, config, source, mixed_signals=_aggregator_signals(place, components))


def _aggregator_signals(place: Callable[[str], Location], components: Mapping[Location, Any]) -> frozenset[str]:
    """What an aggregator gives: the mixed target, and what it says of its teachers."""
    aggregator = components.get(place("aggregate"))
    own = frozenset() if aggregator is None else aggregator.entry.provides(aggregator.options).signals
    return frozenset({"targets"}) | own


def _stored(
    at: Location, training: TrainConfig, config: RunConfig, source: str | None, *, mixed_signals: frozenset[str]
) -> Supply | Problem:
    captures = {capture.name: (place, capture) for place, capture in located_captures(config)}
    wanted = training.store if source is None else source
    if wanted not in captures:
        hint = suggestion(wanted, captures, what="captures of this file") or "; the file has no `capture:` section"
        return Problem(at, f"no capture is called {wanted!r}{hint}")
    place, capture = captures[wanted]
    teachers = ", ".join(captured_teachers(capture, config))
    mixed = capture.joint and capture.method not in SAMPLED_METHODS and "," in teachers  # else the capture is refused
    if mixed and training.aggregate is None:
        return Problem(
            at,
            f"the capture {wanted!r} holds several teachers ({teachers}): say how they are mixed, train.aggregate, or "
            "give each a capture of its own",
        )
    return Supply(
        what=f"the capture {capture.name!r} (method {capture.method})",
        signals=mixed_signals if mixed else frozenset({"targets"}),
        method=capture.method,
        temperatures=tuple(capture.temperatures),
        setting=path_text(place),
        live=False,
        mixed=mixed,
    )


def _translated(supply: Supply, aligner: Any) -> Supply:
    """What is left of a live teacher's signals when an aligner passes them on."""
    provides = aligner.entry.provides(aligner.options)
    temperatures = supply.temperatures
    if provides.temperatures is not None:
        kept = provides.temperatures if temperatures is None else temperatures
        temperatures = tuple(t for t in kept if t in provides.temperatures)
    what = f"{supply.what} through the aligner {aligner.entry.id}"
    return replace(supply, what=what, signals=provides.signals, temperatures=temperatures)


def _live(
    at: Location,
    training: TrainConfig,
    config: RunConfig,
    components: Mapping[Location, Any],
    source: str | None,
    *,
    mixed_signals: frozenset[str],
) -> Supply | Problem:
    if not config.all_teachers:
        return Problem(at, "is live, but the run file has no `teacher:` section")
    names = ", ".join(config.all_teachers)
    if source is not None and source not in config.all_teachers:
        hint = suggestion(source, config.all_teachers, what="teachers of this file")
        return Problem(at, f"no teacher is called {source!r}{hint}")
    if source is None and training.aggregate is not None:
        return Supply(f"the mixture of {names}", mixed_signals, "topk", None, "train.sparse", True, mixed=True)
    if source is None and len(config.all_teachers) > 1:
        return Problem(
            at,
            f"is live, and the run file names several teachers ({names}): give each objective the `source` it learns "
            "from, or mix them with train.aggregate",
        )
    name = next(iter(config.all_teachers)) if source is None else source
    single = name == "teacher" and config.teacher is not None
    teacher = components.get(("teacher",) if single else ("teachers", name))
    provides = Provides(frozenset({"targets"}), ("exact", "sampled"))
    label = "teacher"
    if teacher is not None:
        provides, label = teacher.entry.provides(teacher.options), teacher.entry.id
    sparse = training.sparse
    method = "topk" if sparse is None else sparse.method
    temperatures = provides.temperatures
    if sparse is not None and method in SAMPLED_METHODS:
        temperatures = tuple(sparse.temperatures)
    return Supply(f"the live teacher {label}", provides.signals, method, temperatures, "train.sparse", True)
