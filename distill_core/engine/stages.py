"""What each kind of stage does: calls the part of the engine that does it. Imports happen here, when a stage runs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from distill_core.engine.context import RunContext
from distill_core.engine.manifest import clear, read_manifest
from distill_core.engine.plan import Stage
from distill_core.engine.run_file.models_on_disk import context_length
from distill_core.engine.run_file.supply import MODEL
from distill_core.errors import DataError, StoreError, TrainingError
from distill_core.funnel import funnel_sentence

Notes = dict[str, Any]
"""What a stage says about itself, for its manifest."""

RECORDS_FILE = "records.jsonl"


def synthesize(context: RunContext, stage: Stage) -> Notes:
    """Records made by the synthesizer from those of ``data.train.source``, one JSON object a line."""
    from distill_core.files import atomic_file

    config = context.config
    assert config.synthesize is not None
    synthesizer = context.registry.build("synthesizer", config.synthesize)
    if hasattr(synthesizer, "build"):
        reads = context.registry.needs("synthesizer", config.synthesize).signals
        synthesizer.build(_synthesis_context(context, **(_of_the_student(context) if MODEL in reads else {})))
    source = context.registry.build("source", config.data.train.source)
    directory = context.path(stage.name)
    count = 0
    with (
        context.progress.task("synthesize", None, unit="records") as task,
        atomic_file(directory / RECORDS_FILE) as file,
    ):
        for record in synthesizer.synthesize(source.records(), directory):
            file.write(_json_line(record))
            count += 1
            task.advance(1)
        if not count:
            raise DataError(f"the synthesizer {config.synthesize.use} made no record: check its options and its source")
    summary = getattr(synthesizer, "summary", None)
    notes: Notes = {"records": count, **(summary() if callable(summary) else {})}
    if told := funnel_sentence(notes.get("funnel") or ()):
        context.progress.say(f"synthesize: {count} records ({told})")
    return notes


def _json_line(record: Mapping[str, Any]) -> bytes:
    """A record as it is; with escapes where it holds half of a surrogate pair, for the data stage to refuse by name."""
    try:
        return json.dumps(record, ensure_ascii=False).encode() + b"\n"
    except UnicodeEncodeError:
        return json.dumps(record).encode() + b"\n"


def _synthesis_context(context: RunContext, **more: Any) -> Any:
    from distill_core.interfaces import SynthesisContext

    return SynthesisContext(
        seed=context.config.seed,
        build=context.registry.build,
        teacher=context.teacher,
        tokenizer=context.tokenizer,
        say=context.progress.say,
        **more,
    )


def _of_the_student(context: RunContext) -> dict[str, Any]:
    """What a synthesizer that declares the signal ``model`` is given."""
    from distill_core.engine.prepare import sequences_of
    from distill_core.engine.student import new_student

    config, task = context.config, context.task
    needs_teacher = config.student.init.model is None

    def student(seed: int) -> Any:
        cut = config.student.init.from_teacher
        source = context.teacher_source(None if cut is None else cut.teacher) if needs_teacher else None
        return new_student(config.student, teacher_source=source, seed=seed, task=task)

    def sequences(record: Any) -> list[Any]:
        document = str(record.get("document", ""))
        return sequences_of(record, document, tokenizer=context.tokenizer(), data=config.data, task=task)

    return {"task": task, "student": student, "sequences": sequences}


FILTERS = "filters"
"""Directory of a run where filters keep what they want to find again: answers of a judge."""


def filter_context(context: RunContext) -> Any:
    """What filters of the run are built with."""
    from distill_core.interfaces import FilterContext

    return FilterContext(**vars(_synthesis_context(context)), directory=context.directory / FILTERS)


class SynthesizedRecords:
    """The output of the synthesize stage, as a source."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def records(self) -> Iterator[dict[str, Any]]:
        with open(self.path, encoding="utf-8") as file:
            for line in file:
                yield json.loads(line)


def data(context: RunContext, stage: Stage) -> Notes:
    from distill_core.engine.prepare import prepare_data
    from distill_core.store.tokenizer import classes_info, vocabulary_info

    tokenizer = context.tokenizer()
    source = None
    if "synthesize" in stage.inputs:
        source = SynthesizedRecords(context.path("synthesize") / RECORDS_FILE)
    dataset = prepare_data(
        stage.item,
        context.config.data,
        tokenizer=tokenizer,
        directory=context.path(stage.name),
        registry=context.registry,
        progress=context.progress,
        source=source,
        task=context.task,
        filter_context=filter_context(context),
    )
    funnel = [{k: v for k, v in step.items() if k != "examples"} for step in dataset.summary["funnel"]]
    notes: Notes = {"sequences": len(dataset), "tokens": dataset.n_tokens, "funnel": funnel}
    other = {"eval": "train", "target": "eval"}.get(stage.item)
    shared = [] if other is None else _shared_documents(context.prepared(other), dataset)
    if shared:
        splits = "both splits" if stage.item == "eval" else f"{stage.item} and {other}"
        context.progress.say(
            f"{stage.name}: warning: {len(shared)} documents are in {splits}, e.g. {shared[0]}: held-out figures "
            "will look better than they are"
        )
        notes["documents_in_both_splits"] = len(shared)
    if context.task is not None:
        classes = classes_info(context.task.labels, tokenizer)
        return {**notes, "classes": {"size": classes.size, "fingerprint": classes.fingerprint}}
    vocabulary = vocabulary_info(tokenizer)
    return {**notes, "tokenizer": {"size": vocabulary.size, "fingerprint": vocabulary.fingerprint}}


def _shared_documents(train: Any, held_out: Any) -> list[str]:
    known = train.summary["documents"]
    return [document for document in held_out.summary["documents"] if document in known]


def student(context: RunContext, stage: Stage) -> Notes:
    from distill_core.engine.student import initialise_student

    config = context.config
    needs_teacher = config.student.init.model is None
    cut = config.student.init.from_teacher
    directory = initialise_student(
        config.student,
        teacher_source=context.teacher_source(None if cut is None else cut.teacher) if needs_teacher else None,
        directory=context.path(stage.name),
        seed=config.seed,
        task=context.task,
    )
    model_config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    longest = context_length(model_config)
    asked = config.data.sequence_length_tokens
    if longest is not None and asked > longest:
        raise DataError(
            f"data.sequence_length_tokens is {asked} tokens, but the student has a context of {longest}: "
            f"use at most {longest}"
        )
    return {"source": config.student.init.model or ("teacher layers" if config.student.init.from_teacher else "config")}


def select(context: RunContext, stage: Stage) -> Notes:
    from distill_core.engine.selection import select_sequences

    config = context.config.select
    assert config is not None
    return {**select_sequences(context, config, context.path(stage.name), reads=stage.inputs), **_kernels()}


def capture(context: RunContext, stage: Stage) -> Notes:
    from distill_core.engine.capture import capture as capture_signals
    from distill_core.engine.capture_update import update_capture
    from distill_core.engine.joint_capture import capture_jointly
    from distill_core.engine.run_file.supply import captured_teachers

    config = next(one for one in context.config.captures if one.name == stage.item)
    if stage.name in context.damaged:
        _remove_damaged_shards(context, stage)
    policy = _policy_of_readers(context, config.name)
    teachers, sentences = {}, []
    for name in captured_teachers(config, context.config):
        teachers[name], sentence = context.understood(context.teacher(name), policy=policy)
        sentences.append(sentence)
    dataset, directory = context.dataset("train"), context.path(stage.name)
    update: Notes = {}
    if config.update is not None:
        (teacher,) = teachers.values()
        result = update_capture(
            teacher, dataset, config, directory, seed=context.config.seed, progress=context.progress
        )
        context.progress.say(f"{stage.name}: {result.sentence()}")
        update = {"update": asdict(result)}
    elif config.joint:
        capture_jointly(teachers, dataset, config, directory, progress=context.progress)
    else:
        (teacher,) = teachers.values()
        captured = capture_signals(
            teacher, dataset, config, directory, seed=context.config.seed, progress=context.progress
        )
        if config.known:
            update = {"copied_sequences": captured.copied_sequences}
    identity = ", ".join(teacher.identity() for teacher in teachers.values())
    return {"teacher": identity, "vocabulary": "; ".join(dict.fromkeys(sentences)), **update, **_kernels()}


def _remove_damaged_shards(context: RunContext, stage: Stage) -> None:
    """What is left of the store is right; one whose description is damaged starts over."""
    from distill_core.store import verify_store

    for directory in store_directories(context, stage.item):
        try:
            problems = verify_store(directory, remove_damaged=True)
        except StoreError as error:
            problems = [f"{error}: the capture starts over"]
            clear(directory)
        for problem in problems:
            context.progress.say(f"{stage.name}: {problem}")


def store_directories(context: RunContext, name: str) -> list[Path]:
    """The stores of a capture: one, or one per teacher where they were captured together."""
    from distill_core.engine.run_file.supply import captured_teachers

    config = next(one for one in context.config.captures if one.name == name)
    directory = context.path(f"capture:{name}")
    return (
        [directory / teacher for teacher in captured_teachers(config, context.config)] if config.joint else [directory]
    )


def _policy_of_readers(context: RunContext, store: str) -> Any:
    """What the trainings that read a capture say about vocabularies; the strictest where they differ."""
    from distill_core.engine.run_file.supply import readers_of
    from distill_core.engine.vocabulary import chosen_policy

    said = [training.vocabulary for training in readers_of(store, context.config).values()]
    agreed = bool(said) and all(one == said[0] for one in said)
    return chosen_policy(said[0], context.registry) if agreed else "error"


def train(context: RunContext, stage: Stage) -> Notes:
    from distill_core.engine.training import train as train_student
    from distill_core.engine.training_teachers import teachers_of

    config = context.config.trainings()[stage.item]
    chosen = teachers_of(context, config)
    # A store has no tokenizer; to truncate, the teacher's own says which ids are common.
    truncates = config.vocabulary == "truncate" and config.teacher == "store"
    offered = getattr(context.teacher(), "tokenizer", None) if truncates else None

    def on_step(step: int, metrics: dict[str, float]) -> None:
        context.registry.call_hook("distill_step_ended", run=context, step=step, metrics=metrics)

    result = train_student(
        student_dir=context.path("student"),
        student=context.config.student,
        tokenizer=context.tokenizer(),
        train_data=context.prepared("train") if config.learns_from == "all" else context.dataset("train"),
        eval_data=context.dataset("eval") if "data:eval" in stage.inputs else None,
        config=config,
        teacher=chosen.own,
        directory=context.path(stage.name),
        seed=context.config.seed,
        registry=context.registry,
        progress=context.progress,
        on_step=on_step,
        eval_teacher=chosen.own_held_out,
        named_teachers=chosen.named,
        named_eval_teachers=chosen.named_held_out,
        teacher_tokenizer=offered() if callable(offered) else None,
        task=context.task,
    )
    if not (context.path(stage.name) / "model" / "config.json").is_file():
        raise TrainingError(f"{stage.name} ended without a model in {context.path(stage.name) / 'model'}")
    return {"steps": result.steps, "loss": result.loss, "vocabulary": result.vocabulary, **_kernels()}


def evaluate(context: RunContext, stage: Stage) -> Notes:
    from distill_core.engine.evaluation import EvaluationTarget
    from distill_core.engine.evaluation import evaluate as evaluate_models
    from distill_core.engine.flags import run_flags

    config = context.config
    remote = config.student.trust_remote_code
    models = {}
    source = context.teacher_source()
    if source is not None:
        models["teacher"] = EvaluationTarget(source=source, is_teacher=True)
    for name in config.trainings():
        models[name] = EvaluationTarget(
            source=context.path(f"train:{name}") / "model", is_teacher=False, trust_remote_code=remote
        )
    for name, model in config.evaluate.models.items():
        models[name] = EvaluationTarget(source=model, trust_remote_code=remote)
    evaluate_models(
        models,
        teacher=context.teacher() if config.all_teachers else None,
        data=context.dataset("eval"),
        config=config.evaluate,
        registry=context.registry,
        progress=context.progress,
        directory=context.path(stage.name),
        prompts=config.report.prompts,
        max_new_tokens=config.report.max_new_tokens,
        task=context.task,
        training=context.dataset("train"),
        records=lambda split: _records(context, split),
        seed=config.seed,
        flags=run_flags({name: read_manifest(context.path(f"train:{name}")) for name in config.trainings()}),
        cost=_cost(context),
        tokenizer=context.tokenizer(),
    )
    return {"models": list(models), **_kernels()}


def _cost(context: RunContext) -> dict[str, Any]:
    """Of what has been run; a capture that no training reads may not have been."""
    from distill_core.engine.cost import cost_of
    from distill_core.engine.metrics_file import MetricsFile
    from distill_core.store import store_info

    manifests = {stage.name: read_manifest(context.path(stage.name)) for stage in context.plan.stages}
    done = {name: one for name, one in manifests.items() if one is not None and one.status == "finished"}
    stores = {}
    for capture in context.config.captures:
        if f"capture:{capture.name}" in done:
            for directory in store_directories(context, capture.name):
                name = f"{capture.name}/{directory.name}" if capture.joint else capture.name
                stores[name] = store_info(directory)
    lines = {
        name: MetricsFile(context.path(f"train:{name}") / "metrics.jsonl").read() for name in context.config.trainings()
    }
    return cost_of(done, stores, lines)


def _records(context: RunContext, split: str) -> Iterable[tuple[str, Mapping[str, Any]]]:
    from distill_core.engine.prepare import split_records

    made = split == "train" and context.config.synthesize is not None
    source = SynthesizedRecords(context.path("synthesize") / RECORDS_FILE) if made else None
    return split_records(
        split, context.config.data, registry=context.registry, context=filter_context(context), source=source
    )


def report(context: RunContext, stage: Stage) -> Notes:
    from distill_core.report import write_cards, write_report

    if context.config.synthesize is not None:
        _map_synthesis(context, context.path(stage.name))
    page = write_report(context.directory)
    cards = [path.relative_to(context.directory).as_posix() for path in write_cards(context.directory)]
    return {"page": page.relative_to(context.directory).as_posix(), "model_cards": cards}


def _map_synthesis(context: RunContext, directory: Path) -> None:
    """Synthetic sequences beside the real held-out ones, for the page."""
    from distill_core.engine.synthesis_map import points_of
    from distill_core.files import write_json
    from distill_core.report.data_map import data_map
    from distill_core.report.made_data import MADE, REAL, SYNTHESIS_MAP

    groups = {REAL: context.dataset("eval"), MADE: context.prepared("train")}
    remote = context.config.student.trust_remote_code
    of, points = points_of(groups, student=context.path("student"), task=context.task, trust_remote_code=remote)
    totals = {name: len(group) for name, group in groups.items()}
    write_json(directory / SYNTHESIS_MAP, {"of": of, "sequences": totals, **data_map(points)})


def _kernels() -> Notes:
    """Which implementations the ops chose in this process."""
    from distill_core import ops

    return {"kernels": ops.chosen()}


STAGES: dict[str, Callable[[RunContext, Stage], Notes]] = {
    "synthesize": synthesize,
    "data": data,
    "student": student,
    "select": select,
    "capture": capture,
    "train": train,
    "evaluate": evaluate,
    "report": report,
}
