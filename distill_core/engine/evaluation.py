"""The evaluation stage: every model on the same held-out rows, compared by document, written to ``results.json``.

The schema of ``results.json`` is in docs/evaluation.md. Beside it lies ``documents.jsonl``: one line per model, metric
and document with (sum, denominator), from which every figure can be recomputed or paired with another run's.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from distill_core.config import EvaluateConfig
from distill_core.engine import statistics
from distill_core.engine.data import TokenDataset
from distill_core.engine.disagreements import Disagreements
from distill_core.engine.evaluated_models import (
    EvaluationTarget,
    LoadedModel,
    describe,
    efficiency,
    generations,
    load,
    shown_task,
)
from distill_core.engine.flags import tokenizer_changed
from distill_core.engine.results import (
    compare,
    figures,
    finite,
    flags_of,
    power_flags,
    retention,
    transfer,
    write_documents,
)
from distill_core.engine.row_pass import row_pass, scorer_of
from distill_core.engine.stopwatch import Stopwatch, Timed
from distill_core.engine.tasks import labels_of
from distill_core.errors import DataError, PluginError, SignalError, VocabularyError
from distill_core.files import atomic_write_bytes
from distill_core.interfaces import EvaluationContext, Flag, Measurement, RowAccumulator, Task, Teacher
from distill_core.store.tokenizer import classes_info, vocabulary_info
from distill_core.types import TokenBatch

SCHEMA = 1
RESULTS_FILE = "results.json"
DOCUMENTS_FILE = "documents.jsonl"
DATA = "(data)"
"""Stands for a model's name in ``documents.jsonl`` where the data itself was measured."""

SHARED_PASS = "(shared pass)"
"""Stands for an evaluator's name where the one pass of all models is timed, row evaluators included."""

Records = Callable[[str], Iterable[tuple[str, Mapping[str, Any]]]]
"""(document, record) of a split by its name."""

__all__ = ["DATA", "DOCUMENTS_FILE", "RESULTS_FILE", "SCHEMA", "EvaluationTarget", "Records", "evaluate"]


def evaluate(
    models: Mapping[str, EvaluationTarget],
    *,
    teacher: Teacher | None = None,
    data: TokenDataset,
    config: EvaluateConfig,
    registry: Any,
    progress: Any = None,
    directory: Path,
    prompts: Sequence[str] = (),
    max_new_tokens: int = 40,
    measure_speed: bool = True,
    task: Task | None = None,
    training: Sequence[Any] | None = None,
    records: Records | None = None,
    seed: int = 0,
    flags: Sequence[Flag] = (),
    cost: Mapping[str, Any] | None = None,
    tokenizer: Any = None,
) -> dict[str, Any]:
    """Measure all models on ``data`` and compare them; returns what it writes to ``directory/results.json``.

    Row evaluators share one pass in which the teacher runs once per batch; free-form evaluators go afterwards, model
    by model. Metrics are computed in fp32 (CPU: models are loaded so) with the batch size of the config, both
    recorded. The first model that is not the teacher is *the student*; every other model is its baseline.

    Args:
        models: by name, in the order of the report.
        teacher: live teacher given to free-form evaluators; its ``model`` also serves as the reference distribution
            where no target is marked as the teacher.
        data: held-out sequences.
        config: evaluators, batch size, limit, confidence.
        registry: builds evaluators (``registry.build("evaluator", ref)``).
        progress: an ``engine.progress.Progress``, or None for silence.
        directory: where ``results.json`` and ``documents.jsonl`` go.
        prompts: prompts for greedy sample continuations.
        max_new_tokens: length of those continuations in tokens.
        measure_speed: time prefill and decoding of all models, interleaved; not done for a task.
        task: what the models predict; None: the next token.
        training: the sequences that students were trained on, for evaluators that ask what was memorised.
        records: the records behind the sequences, for evaluators that read their fields.
        seed: the run's seed.
        flags: what the caller already knows to forbid or weaken a claim.
        cost: what the models cost (``engine.cost.cost_of``), kept beside the figures.
        tokenizer: the one that made the data and the students' training data, where it is known: a student with the
            same tokens under other ids beside it is flagged, and measured on the ids that it was trained on.

    Raises:
        DataError: the held-out set has no sequences, or none with a token to predict.
        VocabularyError: two models with different tokenizers.
    """
    n_sequences = min(len(data), config.limit_sequences or len(data))
    if n_sequences == 0:
        raise DataError(f"the held-out set {data.directory} has no sequences: check data.eval and its filters")
    loaded = {name: load(name, target, task) for name, target in models.items()}
    flags = [*flags, *_own_tokenizers(loaded, tokenizer)]
    foreign = "" if task is not None else _teacher_of_another_tokenizer(loaded, teacher)
    if foreign:
        loaded = {name: one for name, one in loaded.items() if not one.is_teacher}
        if progress is not None:
            progress.say(f"evaluate: {foreign}")
    stage = _Stage(loaded, teacher, data, config, registry, progress, n_sequences, task, foreign)
    stage.beside = {"training": training, "records": records, "seed": seed}
    measured, not_measured, rows = stage.measure()
    of_data = measured.pop(DATA)
    if rows == 0:
        raise DataError(f"no token of the held-out set {data.directory} is to be predicted: check its labels")
    results: dict[str, Any] = {
        "schema": SCHEMA,
        "settings": stage.settings(),
        "data": {
            "sequences": n_sequences,
            "rows": rows,
            "documents": len({data[i].document for i in range(n_sequences)}),
            "metrics": _figures(of_data, config.confidence),
        },
        "models": {name: describe(one) for name, one in loaded.items()},
        "not_measured": not_measured,
        "seconds": stage.watch.seconds,
    }
    for name, measurements in measured.items():
        results["models"][name]["metrics"] = _figures(measurements, config.confidence)
    by_model = {name: [m for _, m in measurements] for name, measurements in measured.items()}
    teacher_name = next((name for name, one in loaded.items() if one.is_teacher), None)
    results["comparisons"] = compare(
        by_model,
        student=next((name for name, one in loaded.items() if not one.is_teacher), None),
        teacher=teacher_name,
        confidence=config.confidence,
    )
    results["retention"] = retention(by_model, teacher=teacher_name, confidence=config.confidence)
    results["transfer"] = transfer(results["models"])
    flags = [*flags, *power_flags(results["comparisons"], results["models"], teacher=teacher_name)]
    results["flags"] = flags_of({DATA: of_data, **measured}, flags, documents=results["data"]["documents"])
    warning = statistics.few_documents_warning(results["data"]["documents"])
    results["warnings"] = [sentence for sentence in (warning, foreign) if sentence]
    results["disagreements"] = stage.watched.found() if stage.watched is not None else None
    results["efficiency"] = efficiency(loaded, progress) if measure_speed and task is None else None
    results["cost"] = cost
    results["generations"] = generations(loaded, prompts, max_new_tokens, progress)
    directory.mkdir(parents=True, exist_ok=True)
    write_documents(directory / DOCUMENTS_FILE, {**measured, **({DATA: of_data} if of_data else {})})
    text = json.dumps(finite(results), ensure_ascii=False, indent=1, allow_nan=False)
    atomic_write_bytes(directory / RESULTS_FILE, text.encode("utf-8", errors="replace"))
    return finite(results)  # type: ignore[no-any-return]


def _figures(measurements: Iterable[tuple[str, Measurement]], confidence: float) -> dict[str, Any]:
    return {m.metric: {**figures(m, confidence), "evaluator": evaluator} for evaluator, m in measurements}


def _own_tokenizers(loaded: Mapping[str, LoadedModel], tokenizer: Any) -> list[Flag]:
    """Flags of students whose tokenizer is the data's under other ids; the data's takes its place."""
    found: list[Flag] = []
    for name, one in loaded.items():
        if tokenizer is None or one.is_teacher or one.tokenizer is None:
            continue
        if one.tokenizer.get_vocab().keys() == tokenizer.get_vocab().keys():
            changed = tokenizer_changed(name, tokenizer, one.tokenizer)
            one.tokenizer = tokenizer if changed else one.tokenizer
            found += changed
    return found


def _teacher_of_another_tokenizer(loaded: Mapping[str, LoadedModel], teacher: Teacher | None) -> str:
    """Why the teacher is left out: the rows that are judged are of the students' tokens; empty if it is not."""
    own = {vocabulary_info(one.tokenizer).fingerprint for one in loaded.values() if not one.is_teacher}
    theirs = {vocabulary_info(one.tokenizer).fingerprint for one in loaded.values() if one.is_teacher}
    if not theirs and teacher is not None:
        theirs = {teacher.vocabulary().fingerprint}
    if not theirs or len(own) != 1 or theirs <= own:
        return ""
    return (
        "the teacher has another tokenizer than the students, so its distribution is over other tokens at other rows: "
        "it is not measured, nor what compares with it (fidelity); bits_per_byte compares across tokenizers"
    )


class _Stage:
    """The measuring part of one evaluation."""

    def __init__(
        self,
        loaded: dict[str, LoadedModel],
        teacher: Teacher | None,
        data: TokenDataset,
        config: EvaluateConfig,
        registry: Any,
        progress: Any,
        n_sequences: int,
        task: Task | None,
        foreign_teacher: str = "",
    ) -> None:
        self.loaded, self.teacher, self.data = loaded, None if foreign_teacher else teacher, data
        self.foreign_teacher = foreign_teacher
        self.task = task
        self.labels = () if task is None else tuple(task.labels)
        self.config, self.registry, self.progress = config, registry, progress
        self.n_sequences = n_sequences
        self.beside: dict[str, Any] = {}
        self.watched: Disagreements | None = None
        self.watch = Stopwatch()
        self.vocabulary = self._one_vocabulary()
        self.scorers = {name: scorer_of(one.model, self.labels) for name, one in loaded.items()}
        self.teacher_name, self.teacher_missing = self._reference()

    def _one_vocabulary(self) -> Any:
        if self.task is not None:
            return self._one_list_of_classes(self.task)
        infos = {name: vocabulary_info(one.tokenizer) for name, one in self.loaded.items()}
        prints: dict[str, list[str]] = {}
        for name, info in infos.items():
            prints.setdefault(info.fingerprint, []).append(name)
        if len(prints) > 1:
            groups = " / ".join(", ".join(names) for names in prints.values())
            raise VocabularyError(
                f"the models to evaluate have different tokenizers ({groups}), but the held-out set is tokenised once: "
                "evaluate models of one tokenizer together"
            )
        return next(iter(infos.values()))

    def _one_list_of_classes(self, task: Task) -> Any:
        expected = None
        for name, one in self.loaded.items():
            expected = classes_info(task.labels, one.tokenizer)
            found = labels_of(one.model.config)
            if found != tuple(task.labels):
                raise VocabularyError(
                    f"{name} ({one.source}) has the labels {list(found)[:5]} ..., the task has "
                    f"{list(task.labels)[:5]} ...: its class ids mean something else; evaluate models of one "
                    "task together"
                )
        return expected

    def _reference(self) -> tuple[str | None, str]:
        """Name of the scorer that gives the teacher's full distribution, or why there is none."""
        names = [name for name, one in self.loaded.items() if one.is_teacher]
        if len(names) > 1:
            raise ValueError(f"at most one model can be the teacher, but {names} are marked as such")
        if names:
            return names[0], ""
        if self.teacher is None:
            return None, self.foreign_teacher or "no teacher was given"
        model = getattr(self.teacher, "model", None)
        if model is None:
            return None, f"the teacher {self.teacher.identity()} has no model here that could give it"
        self.scorers["(reference teacher)"] = scorer_of(model.eval(), self.labels)
        return "(reference teacher)", ""

    def settings(self) -> dict[str, Any]:
        first = next(iter(self.scorers.values()))
        return {
            "batch_sequences": self.config.batch_sequences,
            "limit_sequences": self.config.limit_sequences,
            "confidence": self.config.confidence,
            "device": str(first.device),
            "threads": torch.get_num_threads(),
            "dtype": {name: str(scorer.model.dtype).removeprefix("torch.") for name, scorer in self.scorers.items()},
            "logits": {name: scorer.method for name, scorer in self.scorers.items()},
            "vocabulary": {"size": self.vocabulary.size, "fingerprint": self.vocabulary.fingerprint},
        }

    def batches(self) -> Iterable[TokenBatch]:
        return self.data.batches(self.config.batch_sequences, range(self.n_sequences))

    def _context(self, name: str, one: LoadedModel) -> EvaluationContext:
        return EvaluationContext(
            name=name,
            model=one.model,
            tokenizer=one.tokenizer,
            batches=self.batches,
            teacher=self.teacher,
            is_teacher=one.is_teacher,
            teacher_rows=self.teacher_name is not None,
            teacher_missing=self.teacher_missing,
            labels=self.labels,
            build=self.registry.build,
            **self.beside,
        )

    def _data_context(self) -> EvaluationContext:
        first = next(iter(self.loaded.values()))
        return replace(self._context("data", first), model=None, teacher_rows=False)

    def measure(self) -> tuple[dict[str, list[tuple[str, Measurement]]], list[dict[str, str]], int]:
        """Measurements by model with their evaluator's name, what could not be measured and why, number of rows."""
        evaluators = [(ref.use, self.registry.build("evaluator", ref)) for ref in self.config.evaluators]
        sinks: dict[str, list[tuple[str, RowAccumulator]]] = {name: [] for name in self.loaded}
        measured: dict[str, list[tuple[str, Measurement]]] = {name: [] for name in (*self.loaded, DATA)}
        missing: dict[tuple[str, str], list[str]] = {}
        free_form = []
        for use, evaluator in evaluators:
            if hasattr(evaluator, "evaluate_data"):
                free_form.append((use, evaluator.evaluate_data, DATA))
            for name, one in self.loaded.items():
                if not hasattr(evaluator, "begin"):
                    if hasattr(evaluator, "evaluate"):
                        free_form.append((use, evaluator.evaluate, name))
                    continue
                try:
                    accumulator = evaluator.begin(self._context(name, one))
                except SignalError as error:
                    missing.setdefault((use, str(error)), []).append(name)
                    continue
                if accumulator is not None:
                    sinks[name].append((use, Timed(use, accumulator, self.watch)))
        self._watch_student(sinks)
        with self.watch.running(SHARED_PASS):
            rows = self._shared_pass({name: [sink for _, sink in entries] for name, entries in sinks.items()})
        for name, entries in sinks.items():
            measured[name] += [(use, m) for use, accumulator in entries for m in accumulator.measurements()]
        for use, group in itertools.groupby(free_form, key=lambda entry: entry[0]):
            calls = list(group)
            with shown_task(self.progress, use, len(calls), "models") as task:
                for _, measure, name in calls:
                    context = self._data_context() if name == DATA else self._context(name, self.loaded[name])
                    try:
                        with self.watch.running(use):
                            measured[name] += [(use, m) for m in measure(context)]
                    except SignalError as error:
                        missing.setdefault((use, str(error)), []).append(name)
                    task.advance(1)
        aspects = {use: getattr(evaluator, "aspect", "") for use, evaluator in evaluators}
        for name, found in measured.items():
            _one_evaluator_per_metric(found)
            measured[name] = [(use, replace(m, aspect=m.aspect or aspects[use])) for use, m in found]
        not_measured = [
            {"evaluator": use, "models": ", ".join(names), "reason": reason} for (use, reason), names in missing.items()
        ]
        return measured, not_measured, rows

    def _watch_student(self, sinks: Mapping[str, list[tuple[str, RowAccumulator]]]) -> None:
        """Collect where the first student differs from the teacher, where both are here."""
        student = next((name for name, one in self.loaded.items() if not one.is_teacher), None)
        if student is not None and self.teacher_name is not None:
            self.watched = Disagreements(student, self.loaded[student].tokenizer, self.labels)
            sinks[student].append(("", self.watched))

    def _shared_pass(self, sinks: dict[str, list[RowAccumulator]]) -> int:
        first = 1 if self.task is None else 0
        total = sum(int((self.data[i].labels[first:] != -100).sum()) for i in range(self.n_sequences))
        with shown_task(self.progress, "evaluate", total, "tok" if self.task is None else "rows") as task:
            return row_pass(
                self.batches(),
                self.scorers,
                sinks,
                teacher=self.teacher_name,
                effective_vocabulary=self.vocabulary.size,
                on_batch=task.advance,
            )


def _one_evaluator_per_metric(entries: Sequence[tuple[str, Measurement]]) -> None:
    owners: dict[str, str] = {}
    for use, m in entries:
        if m.metric in owners:
            raise PluginError(
                f"the evaluators {owners[m.metric]} and {use} both measure {m.metric!r}: name one of them under "
                "evaluate.evaluators, or give the metric another name in the plugin"
            )
        owners[m.metric] = use
