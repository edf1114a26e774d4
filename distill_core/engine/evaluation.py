"""The evaluation stage: every model on the same held-out rows, compared by document, written to ``results.json``.

The schema of ``results.json`` is in docs/evaluation.md. Beside it lies ``documents.jsonl``: one line per model, metric
and document with (sum, denominator), from which every figure can be recomputed or paired with another run's.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from distill_core.config import EvaluateConfig
from distill_core.engine import generation, statistics
from distill_core.engine.data import TokenDataset
from distill_core.engine.results import compare, figures, finite, write_documents
from distill_core.engine.row_pass import row_pass, scorer_of
from distill_core.engine.tasks import auto_class, labels_of, reads_text
from distill_core.errors import DataError, DistillError, PluginError, SignalError, VocabularyError
from distill_core.files import atomic_write_bytes
from distill_core.interfaces import EvaluationContext, Measurement, RowAccumulator, Task, Teacher
from distill_core.store.tokenizer import classes_info, vocabulary_info
from distill_core.types import TokenBatch

SCHEMA = 1
RESULTS_FILE = "results.json"
DOCUMENTS_FILE = "documents.jsonl"


@dataclass(frozen=True)
class EvaluationTarget:
    """A model to evaluate.

    Args:
        source: directory or hub id, or a loaded ``PreTrainedModel``.
        is_teacher: this is the teacher the others are compared with; at most one.
        tokenizer: loaded tokenizer; default: the one beside the model. Needed for a loaded model.
        trust_remote_code: run code that comes with the model.
    """

    source: Any
    is_teacher: bool = False
    tokenizer: Any = None
    trust_remote_code: bool = False


@dataclass
class _Loaded:
    model: Any
    tokenizer: Any
    is_teacher: bool
    source: str
    bytes_on_disk: int | None


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

    Raises:
        DataError: the held-out set has no sequences, or none with a token to predict.
        VocabularyError: two models with different tokenizers.
    """
    n_sequences = min(len(data), config.limit_sequences or len(data))
    if n_sequences == 0:
        raise DataError(f"the held-out set {data.directory} has no sequences: check data.eval and its filters")
    loaded = {name: _load(name, target, task) for name, target in models.items()}
    foreign = "" if task is not None else _teacher_of_another_tokenizer(loaded, teacher)
    if foreign:
        loaded = {name: one for name, one in loaded.items() if not one.is_teacher}
        if progress is not None:
            progress.say(f"evaluate: {foreign}")
    stage = _Stage(loaded, teacher, data, config, registry, progress, n_sequences, task, foreign)
    measured, not_measured, rows = stage.measure()
    if rows == 0:
        raise DataError(f"no token of the held-out set {data.directory} is to be predicted: check its labels")
    results: dict[str, Any] = {
        "schema": SCHEMA,
        "settings": stage.settings(),
        "data": {
            "sequences": n_sequences,
            "rows": rows,
            "documents": len({data[i].document for i in range(n_sequences)}),
        },
        "models": {name: _describe(one) for name, one in loaded.items()},
        "not_measured": not_measured,
    }
    for name, measurements in measured.items():
        results["models"][name]["metrics"] = {
            m.metric: {**figures(m, config.confidence), "evaluator": evaluator} for evaluator, m in measurements
        }
    results["comparisons"] = compare(
        {name: [m for _, m in measurements] for name, measurements in measured.items()},
        student=next((name for name, one in loaded.items() if not one.is_teacher), None),
        teacher=next((name for name, one in loaded.items() if one.is_teacher), None),
        confidence=config.confidence,
    )
    warning = statistics.few_documents_warning(results["data"]["documents"])
    results["warnings"] = [sentence for sentence in (warning, foreign) if sentence]
    results["efficiency"] = _efficiency(loaded, progress) if measure_speed and task is None else None
    results["generations"] = _generations(loaded, prompts, max_new_tokens, progress)
    directory.mkdir(parents=True, exist_ok=True)
    write_documents(directory / DOCUMENTS_FILE, measured)
    text = json.dumps(finite(results), ensure_ascii=False, indent=1, allow_nan=False)
    atomic_write_bytes(directory / RESULTS_FILE, text.encode("utf-8", errors="replace"))
    return finite(results)  # type: ignore[no-any-return]


def _load(name: str, target: EvaluationTarget, task: Task | None) -> _Loaded:
    from transformers import AutoTokenizer

    if not isinstance(target.source, str | Path):
        if target.tokenizer is None and reads_text(task):
            raise ValueError(f"models[{name!r}] is a loaded model: give its tokenizer too (EvaluationTarget.tokenizer)")
        return _Loaded(target.source.eval(), target.tokenizer, target.is_teacher, type(target.source).__name__, None)
    source = str(target.source)
    options = {"trust_remote_code": target.trust_remote_code}
    try:
        tokenizer = target.tokenizer
        if tokenizer is None and reads_text(task):
            tokenizer = AutoTokenizer.from_pretrained(source, **options)
        model: Any = auto_class(task).from_pretrained(source, dtype=torch.float32, **options)
    except (OSError, ValueError) as error:
        raise DistillError(
            f"{name} cannot be loaded from {source}: {error}\nExpected a Transformers model with its tokenizer; the "
            "training that makes it may not have finished (distill train)"
        ) from error
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    return _Loaded(model.eval(), tokenizer, target.is_teacher, source, _bytes_on_disk(Path(source)))


def _teacher_of_another_tokenizer(loaded: Mapping[str, _Loaded], teacher: Teacher | None) -> str:
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


def _bytes_on_disk(directory: Path) -> int | None:
    """Size of the weight files; None where the source is not a local directory."""
    files = [path for pattern in ("*.safetensors", "*.bin", "*.gguf") for path in directory.glob(pattern)]
    return sum(path.stat().st_size for path in files) if files else None


class _Stage:
    """The measuring part of one evaluation."""

    def __init__(
        self,
        loaded: dict[str, _Loaded],
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

    def _context(self, name: str, one: _Loaded) -> EvaluationContext:
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
        )

    def measure(self) -> tuple[dict[str, list[tuple[str, Measurement]]], list[dict[str, str]], int]:
        """Measurements by model with their evaluator's name, what could not be measured and why, number of rows."""
        evaluators = [(ref.use, self.registry.build("evaluator", ref)) for ref in self.config.evaluators]
        sinks: dict[str, list[tuple[str, RowAccumulator]]] = {name: [] for name in self.loaded}
        measured: dict[str, list[tuple[str, Measurement]]] = {name: [] for name in self.loaded}
        missing: dict[tuple[str, str], list[str]] = {}
        free_form = []
        for use, evaluator in evaluators:
            for name, one in self.loaded.items():
                if not hasattr(evaluator, "begin"):
                    free_form.append((use, evaluator, name, one))
                    continue
                try:
                    accumulator = evaluator.begin(self._context(name, one))
                except SignalError as error:
                    missing.setdefault((use, str(error)), []).append(name)
                    continue
                if accumulator is not None:
                    sinks[name].append((use, accumulator))
        rows = self._shared_pass({name: [sink for _, sink in entries] for name, entries in sinks.items()})
        for name, entries in sinks.items():
            measured[name] += [(use, m) for use, accumulator in entries for m in accumulator.measurements()]
        for use, evaluator, name, one in free_form:
            try:
                measured[name] += [(use, m) for m in evaluator.evaluate(self._context(name, one))]
            except SignalError as error:
                missing.setdefault((use, str(error)), []).append(name)
        for found in measured.values():
            _one_evaluator_per_metric(found)
        not_measured = [
            {"evaluator": use, "models": ", ".join(names), "reason": reason} for (use, reason), names in missing.items()
        ]
        return measured, not_measured, rows

    def _shared_pass(self, sinks: dict[str, list[RowAccumulator]]) -> int:
        first = 1 if self.task is None else 0
        total = sum(int((self.data[i].labels[first:] != -100).sum()) for i in range(self.n_sequences))
        with _task(self.progress, "evaluate", total, "tok" if self.task is None else "rows") as task:
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


def _describe(one: _Loaded) -> dict[str, Any]:
    config = one.model.config
    try:
        embedding = one.model.get_input_embeddings()
    except NotImplementedError:  # a convolutional net has none
        embedding = None
    return {
        "role": "teacher" if one.is_teacher else "student",
        "source": one.source,
        "architecture": type(one.model).__name__,
        "parameters": sum(p.numel() for p in one.model.parameters()),
        "embedding_parameters": sum(p.numel() for p in embedding.parameters()) if embedding is not None else 0,
        "layers": getattr(config, "num_hidden_layers", None),
        "hidden_size": getattr(config, "hidden_size", None),
        "bytes_on_disk": one.bytes_on_disk,
        "metrics": {},
    }


def _efficiency(loaded: Mapping[str, _Loaded], progress: Any) -> dict[str, Any]:
    contexts = [getattr(one.model.config, "max_position_embeddings", None) or 10**9 for one in loaded.values()]
    decode = min(generation.DECODE_TOKENS, max(1, min(contexts) // 4))
    prefill = max(1, min(generation.PREFILL_TOKENS, min(contexts) - decode))
    with _task(progress, "speed", None, "tok"):
        found = generation.speeds(
            {name: one.model for name, one in loaded.items()}, prefill_tokens=prefill, decode_tokens=decode
        )
    return {
        "prefill_tokens": prefill,
        "decode_tokens": decode,
        "rounds": min(speed.rounds for speed in found.values()),
        "batch_sequences": 1,
        "models": {name: asdict(speed) for name, speed in found.items()},
    }


def _generations(
    loaded: Mapping[str, _Loaded], prompts: Sequence[str], max_new_tokens: int, progress: Any
) -> dict[str, Any]:
    samples = []
    with _task(progress, "samples", len(prompts), "prompt") as task:
        for prompt in prompts:
            models = {name: (one.model, one.tokenizer) for name, one in loaded.items()}
            samples += generation.samples(models, [prompt], max_new_tokens=max_new_tokens)
            task.advance(1)
    return {"decoding": "greedy", "max_new_tokens": max_new_tokens, "samples": samples}


class _NoTask:
    def advance(self, n: float, note: str = "") -> None:
        """Shows nothing."""


def _task(progress: Any, label: str, total: float | None, unit: str) -> Any:
    return nullcontext(_NoTask()) if progress is None else progress.task(label, total, unit)
