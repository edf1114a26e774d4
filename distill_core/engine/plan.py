"""The stages of a run in order, and what the output of each depends on. No torch.

``data:train`` and ``data:eval``, ``student``, ``capture:<name>``, ``train:<name>``, ``evaluate``, ``report``; with a
``synthesize`` section also ``synthesize`` before ``data:train``, with a ``select`` section ``select``, whose sequences
are then those that captures and trainings read. A stage's *parts* are a flat mapping of everything its
output depends on; its fingerprint is their hash together with the digests of what earlier stages wrote.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill_core import __version__
from distill_core.config import ComponentRef, RunConfig, TrainConfig
from distill_core.engine.file_hashes import FileHashes
from distill_core.engine.manifest import flat
from distill_core.engine.run_file.loading import Location, path_text
from distill_core.engine.run_file.supply import MODEL, asked_teachers, captured_teachers, readers_of
from distill_core.engine.run_file.validate import TRAINING_PARTS
from distill_core.options import ScheduleRef

if TYPE_CHECKING:
    from distill_core.engine.run_file.validate import CheckedRun
    from distill_core.registry import Registry

KINDS = ("synthesize", "data", "student", "select", "capture", "train", "evaluate", "report")

RESUMABLE = ("synthesize", "select", "capture", "train")
"""Stages that go on where they were interrupted; the others are short and start over."""

SELECTOR_INPUTS = {"target": "data:target", MODEL: "student"}
"""What a selector can ask for, and the stage that makes it; ``labels`` come with the task."""

_NO_EFFECT = ("keep_checkpoints", "trackers")
"""Fields of a training that change nothing in its result."""

Parts = dict[str, Any]


@dataclass(frozen=True)
class Stage:
    """One stage.

    Args:
        name: e.g. ``capture:main``.
        kind: one of :data:`KINDS`.
        item: what comes after the colon (``main``), or the empty string.
        directory: where it writes, relative to the run's directory.
        inputs: names of the stages whose outputs it reads.
        parts: computes what its output depends on, apart from those outputs.
    """

    name: str
    kind: str
    item: str
    directory: Path
    inputs: tuple[str, ...]
    parts: Callable[[], Parts]

    @property
    def resumable(self) -> bool:
        return self.kind in RESUMABLE


@dataclass(frozen=True)
class Plan:
    """All stages, each after those it reads."""

    config: RunConfig
    directory: Path
    stages: tuple[Stage, ...]

    def __getitem__(self, name: str) -> Stage:
        return next(stage for stage in self.stages if stage.name == name)

    def needed_for(self, kind: str) -> tuple[Stage, ...]:
        """The stages of a kind and everything they need, in order."""
        wanted = {stage.name for stage in self.stages if stage.kind == kind}
        for stage in reversed(self.stages):
            if stage.name in wanted:
                wanted |= set(stage.inputs)
        return tuple(stage for stage in self.stages if stage.name in wanted)


def make_plan(checked: CheckedRun, *, registry: Registry) -> Plan:
    """The stages of a checked run file."""
    directory = Path(checked.config.output_dir).expanduser()
    parts = PartsOf(checked, registry, FileHashes(directory / ".hashes.json"))
    return Plan(checked.config, directory, tuple(_stages(checked.config, parts)))


def _stages(config: RunConfig, parts: PartsOf) -> Iterator[Stage]:
    def stage(kind: str, item: str, inputs: Iterable[str], compute: Callable[[], Parts]) -> Stage:
        return Stage(f"{kind}:{item}" if item else kind, kind, item, Path(kind, item), tuple(inputs), compute)

    synthesis = ("synthesize",) if config.synthesize is not None else ()
    if synthesis:
        yield stage("synthesize", "", (), parts.synthesize)
    for split in ("train", "eval"):
        before = synthesis if split == "train" else ("data:train",)  # documents in both splits are told
        yield stage("data", split, before, lambda s=split: parts.data(s))  # type: ignore[misc]
    if config.data.target is not None:
        yield stage("data", "target", ("data:eval",), lambda: parts.data("target"))
    yield stage("student", "", (), parts.student)
    learned = "data:train"
    if config.select is not None:
        learned = "select"
        yield stage("select", "", ("data:train", *parts.selector_reads()), parts.select)
    for capture in config.captures:
        yield stage("capture", capture.name, (learned, "student"), lambda c=capture: parts.capture(c))  # type: ignore[misc]
    trainings = config.trainings()
    for name, training in trainings.items():
        inputs = ["data:train" if training.learns_from == "all" else learned, "student"]
        if training.eval_steps is not None:
            inputs.append("data:eval")
        if training.teacher == "store":
            inputs += [f"capture:{c.name}" for c in config.captures if c.name in training.sources_read]
        yield stage("train", name, inputs, lambda t=training: parts.train(t))  # type: ignore[misc]
    trained = [f"train:{name}" for name in trainings]
    yield stage("evaluate", "", ["data:eval", *trained], parts.evaluate)
    captured = [f"capture:{capture.name}" for capture in config.captures]
    prepared = [f"data:{split}" for split in config.data.splits]
    read = ["evaluate", *prepared, "student", *(["select"] if config.select else []), *captured, *trained]
    yield stage("report", "", read, parts.report)


class PartsOf:
    """Computes the parts of each stage."""

    def __init__(self, checked: CheckedRun, registry: Registry, hashes: FileHashes) -> None:
        self.config, self.components, self.registry, self.hashes = checked.config, checked.components, registry, hashes

    def synthesize(self) -> Parts:
        source = self._source("train")
        at: Location = ("synthesize",)
        parts = {**source, **self._component(at), **self._files(at), **self._seed(), **_code()}
        options = self.components[at].options
        wanted = self.components[at].entry.needs(options).signals
        if wanted - {MODEL}:
            parts.update(self._teachers(asked_teachers(options, self.config)))
        if MODEL in wanted:
            cut = self.config.data.model_dump(mode="json", exclude={"train", "eval", "target"})
            parts.update({**dict(flat("data", cut)), **self.student(), **self._task(), **self._tokenizer()})
        return parts

    def data(self, split: str) -> Parts:
        section = getattr(self.config.data, split)
        options = self.config.data.model_dump(mode="json", exclude={"train", "eval", "target"})
        parts: Parts = dict(flat("data", options))
        for name in ("limit_sequences", "document_sequences"):
            parts[f"data.{split}.{name}"] = getattr(section, name)
        if split != "train" or self.config.synthesize is None:
            parts.update(self._source(split))
        for index in range(len(section.filters)):
            parts.update(self._filter(("data", split, "filters", index)))
        for index in range(len(section.transforms)):
            parts.update(self._component(("data", split, "transforms", index)))
        return {**parts, **self._task(), **self._tokenizer(), **_code()}

    def _filter(self, at: Location) -> Parts:
        """A filter with the files and the model it names, and the teacher that it asks."""
        parts, component = {**self._component(at), **self._files(at)}, self.components[at]
        if component.entry.needs(component.options).signals:
            parts.update({**self._seed(), **self._teachers(asked_teachers(component.options, self.config))})
        return parts

    def _files(self, at: Location) -> Parts:
        parts: Parts = {}
        for index, path in enumerate(_named_files(self.components[at].options)):
            parts.update(self.hashes.content(f"{path_text(at)} file {index}", path))
        return parts

    def selector_reads(self) -> tuple[str, ...]:
        """The stages that the selector reads beside its pool."""
        component = self.components[("select", "selector")]
        wanted = component.entry.needs(component.options).signals
        return tuple(stage for signal, stage in SELECTOR_INPUTS.items() if signal in wanted)

    def select(self) -> Parts:
        assert self.config.select is not None
        budget = self.config.select.budget.model_dump(mode="json", exclude_none=True)
        parts: Parts = dict(flat("select.budget", budget))
        for field in ("exclude", "keep"):
            for index, directory in enumerate(getattr(self.config.select, field)):
                kept = Path(directory).expanduser() / "tokens.arrow"
                parts.update(self.hashes.content(f"select.{field}[{index}]", str(kept)))
        return {**parts, **self._component(("select", "selector")), **self._task(), **self._seed(), **_code()}

    def student(self) -> Parts:
        options = self.config.student.model_dump(mode="json")
        parts = {**dict(flat("student", options)), **self._task(), **self._seed(), **_code()}
        if self.config.student.init.from_teacher is not None:
            parts.update(self._teachers())
        if self.config.student.init.model is not None:
            parts.update(self.hashes.content("student.init.model", self.config.student.init.model))
        return parts

    def capture(self, capture: Any) -> Parts:
        path = "capture" if len(self.config.captures) == 1 else f"capture {capture.name}"
        options = capture.model_dump(mode="json", exclude={"name", "teachers", "known"})
        teachers = self._teachers(captured_teachers(capture, self.config))
        if capture.update is not None:  # the description holds the checksum of every shard
            description = str(Path(capture.update.base).expanduser() / "store.json")
            teachers.update(self.hashes.content(f"{path}.update.base", description))
        for index, known in enumerate(capture.known):
            description = str(Path(known).expanduser() / "store.json")
            teachers.update(self.hashes.content(f"{path}.known[{index}]", description))
        parts: Parts = {**dict(flat(path, options)), **teachers, **self._task(), **self._seed(), **_code()}
        for training in readers_of(capture.name, self.config).values():
            if isinstance(training.vocabulary, ComponentRef):
                parts.update(self._component(self._part_at(training, "vocabulary")))
        return parts

    def train(self, training: TrainConfig) -> Parts:
        unread = {"none": {"store", "vocabulary", "sparse"}, "store": {"sparse"}, "live": {"store"}}[training.teacher]
        if training.eval_steps is None:
            unread |= {"eval_sequences"}
        if self.config.select is None:
            unread |= {"learns_from"}
        named = {field for field in TRAINING_PARTS if not isinstance(getattr(training, field), str)}
        options = training.model_dump(mode="json", exclude={*unread, *_NO_EFFECT, "objectives", *named})
        parts: Parts = {**dict(flat("train", options)), **self._task(), **self._seed(), **_code()}
        parts.update(flat("student", self.config.student.model_dump(mode="json", exclude={"init"})))
        for field in named - unread:
            if getattr(training, field) is not None:
                parts.update(self._component(self._part_at(training, field)))
        at = self._objectives_at(training)
        for index, ref in enumerate(training.objectives):
            weight = ref.weight if isinstance(ref.weight, int | float) else ref.weight.model_dump(mode="json")
            parts.update(flat(f"{path_text(at)}[{index}].weight", weight))
            parts[f"{path_text(at)}[{index}].source"] = ref.source
            if ref.row_weights is not None:
                parts.update(self._component((*at, index, "row_weights")))
            parts.update(self._component((*at, index)))
        if training.teacher == "live":
            parts.update(self._teachers())
            if training.sparse is not None and isinstance(training.sparse.k, ScheduleRef):
                parts.update(self._component((*self._part_at(training, "sparse"), "k")))
        return parts

    def evaluate(self) -> Parts:
        options = self.config.evaluate.model_dump(mode="json", exclude={"evaluators", "models"})
        parts: Parts = {**dict(flat("evaluate", options)), **self._task(), **self._seed(), **_code()}
        for index in range(len(self.config.evaluate.evaluators)):
            parts.update(self._component(("evaluate", "evaluators", index)))
        for name, model in self.config.evaluate.models.items():
            parts.update(self.hashes.content(f"evaluate.models.{name}", model))
        report = self.config.report
        parts.update(flat("report", report.model_dump(mode="json", include={"prompts", "max_new_tokens"})))
        return {**parts, **self._teachers()}

    def report(self) -> Parts:
        return {**dict(flat("", self.config.model_dump(mode="json", exclude={"output_dir"}))), **_code()}

    def _objectives_at(self, training: TrainConfig) -> Location:
        for name, overrides in self.config.compare.items():
            if overrides.objectives is not None and overrides.objectives is training.objectives:
                return ("compare", name, "objectives")
        return ("train", "objectives")

    def _part_at(self, training: TrainConfig, field: str) -> Location:
        for name, overrides in self.config.compare.items():
            if getattr(overrides, field) is not None and getattr(overrides, field) is getattr(training, field):
                return ("compare", name, field)
        return ("train", field)

    def _task(self) -> Parts:
        return {} if self.config.task is None else self._component(("task",))

    def _seed(self) -> Parts:
        return {"seed": self.config.seed}

    def _component(self, at: Location) -> Parts:
        """A component's identity, version, options and the content of the files they name."""
        resolved, path = self.components[at], path_text(at)
        options = resolved.options.model_dump(mode="json")
        parts: Parts = {f"{path}.use": resolved.entry.id, f"{path} (version)": resolved.entry.version}
        parts.update(flat(path, options) if options else ())
        if resolved.entry.component.kind != "teacher":  # whose files _teachers() hashes
            declared = getattr(resolved.options, "files", None)
            parts.update(self._content(path, declared() if callable(declared) else ()))
        for place, other in self.components.items():  # schedules of its weight, components in its options
            if len(place) > len(at) and place[: len(at)] == at:
                parts[f"{path_text(place)} (version)"] = f"{other.entry.id} {other.entry.version}"
                if other.entry.component.kind == "filter":
                    parts.update(self._files(place))
                if other.entry.component.kind == "source":
                    given = other.options.model_dump(mode="json", exclude_unset=True)
                    source = self.registry.build("source", {"use": other.entry.id, **given})
                    parts[f"{path_text(place)} (content)"] = source.fingerprint()
        return parts

    def _source(self, split: str) -> Parts:
        at: Location = ("data", split, "source")
        source = self.registry.build("source", getattr(self.config.data, split).source)
        return {**self._component(at), f"{path_text(at)} (content)": source.fingerprint()}

    def _teachers(self, names: Iterable[str] | None = None) -> Parts:
        parts: Parts = {}
        for name in self.config.all_teachers if names is None else names:
            single = name == "teacher" and self.config.teacher is not None
            at: Location = ("teacher",) if single else ("teachers", name)
            parts.update(self._component(at))
            parts.update(self._content(path_text(at), _named_files(self.components[at].options)))
        return parts

    def _content(self, label: str, paths: Iterable[Any]) -> Parts:
        """Hashes of the files and directories that options name, each under a label of its own."""
        parts: Parts = {}
        for number, path in enumerate(paths, start=1):
            parts.update(self.hashes.content(label if number == 1 else f"{label}, {number}", str(path)))
        return parts

    def _tokenizer(self) -> Parts:
        """Which tokenizer makes the data: as far as it is known without loading it."""
        student = self.config.student
        source = student.tokenizer or student.init.model
        if source is None and not self.config.all_teachers:
            return {}  # a task that reads no text
        if source is None:
            return self._teachers(list(self.config.all_teachers)[:1])
        return {"student tokenizer": source, **self.hashes.content("student tokenizer", source, tokenizer_only=True)}


def _named_files(options: Any) -> list[str]:
    """What ``files()`` of an options model says that it reads; else options that name what exists."""
    declared = getattr(options, "files", None)
    return (
        [str(path) for path in declared()] if callable(declared) else _existing_paths(options.model_dump(mode="json"))
    )


def _existing_paths(options: Mapping[str, Any]) -> list[str]:
    """Options that name a file or directory on this machine."""
    return [v for v in options.values() if isinstance(v, str) and v and Path(v).expanduser().exists()]


def _code() -> Parts:
    return {"distill-core (version)": __version__}
