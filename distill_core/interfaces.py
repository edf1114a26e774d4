"""The Protocols that plugins implement, one per kind. Nothing here runs; it is what the engine relies on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

from distill_core.plugin import Needs
from distill_core.types import (
    LossTerm,
    RowInfo,
    RowTarget,
    SparseSpec,
    StudentView,
    SupportLogits,
    TeacherSignals,
    TokenBatch,
)


@dataclass(frozen=True)
class VocabularyInfo:
    """A tokenizer as far as targets are concerned.

    Args:
        size: effective vocabulary, ``len(tokenizer)``.
        fingerprint: hash of vocabulary, merges, normaliser and special ids, equal across processes.
        name: where it came from, for messages.
    """

    size: int
    fingerprint: str
    name: str = ""


@dataclass(frozen=True)
class BuildContext:
    """Given to ``build(ctx)`` before the optimizer is made.

    Args:
        student: the student model (a ``PreTrainedModel``); its config gives widths and depths.
        teacher_config: the teacher's ``PretrainedConfig`` if it has one, else None.
        total_steps: optimizer steps of the run.
        seed: the run's seed.
        build: builds another component: ``ctx.build("schedule", {"use": "linear", "start": 0, "end": 1})``.
    """

    student: nn.Module
    teacher_config: Any
    total_steps: int
    seed: int
    build: Callable[[str, Mapping[str, Any]], Any]


class StepContext(Protocol):
    """Given to ``on_step_end(ctx)`` after each optimizer step."""

    step: int
    total_steps: int


@runtime_checkable
class Teacher(Protocol):
    """Answers for batches; never trained. Also has ``vocabulary() -> VocabularyInfo`` and ``identity() -> str``."""

    def signals(self, batch: TokenBatch, needs: Needs, sparse: SparseSpec | None = None) -> TeacherSignals:
        """Signals named in ``needs.signals``. With ``"targets"``: at ``batch.rows()``, made sparse as ``sparse`` says
        (a stored teacher returns what it holds). Raises ``SignalError`` for what it cannot give."""
        ...

    def vocabulary(self) -> VocabularyInfo: ...

    def identity(self) -> str:
        """Teacher id and revision for the store, equal across machines (content hash where there is no revision)."""
        ...


class RowObjective(Protocol):
    """Fused: called per chunk of rows inside the one pass over the head.

    Optional: ``temperatures(step, total_steps) -> tuple[float, ...]`` (default ``(1.0,)``), ``extras`` (tuple of
    ``SupportLogits`` extras it reads), ``view(target) -> RowTarget`` (default: the target itself), ``count(batch)``,
    ``build(ctx)``, ``on_step_end(ctx)``, ``parameters()``, ``state_dict()`` / ``load_state_dict()``, ``exported``.
    """

    def rows(self, support: SupportLogits, target: RowTarget | None, rows: RowInfo) -> Tensor:
        """[n] per-row values; ``target`` is None if the objective needs no teacher."""
        ...


class Objective(Protocol):
    """Free form: hidden states, attentions, generated sequences; runs beside the fused pass.

    Optional members as for :class:`RowObjective`; ``count(batch) -> float`` depends on the batch alone (default: its
    number of rows) and is the denominator of the returned sum.
    """

    def __call__(self, student: StudentView, teacher: TeacherSignals, batch: TokenBatch) -> LossTerm: ...


class Schedule(Protocol):
    """A number that changes over training."""

    def __call__(self, step: int, total_steps: int) -> float: ...


class Source(Protocol):
    """Yields records: dicts with ``text`` (or ``prompt`` and ``completion``), ``document`` (id) and free metadata."""

    def records(self) -> Iterator[dict[str, Any]]: ...

    def fingerprint(self) -> str:
        """Content hash of everything read; equal across processes and machines."""
        ...


class Filter(Protocol):
    """Judges records; ``verdict`` is None to keep, or the reason to drop."""

    def verdict(self, record: Mapping[str, Any]) -> str | None: ...


@dataclass(frozen=True)
class EvaluationContext:
    """What an evaluator is given for one model.

    Args:
        name: ``teacher``, ``student`` or the name of a compared model.
        model: the model in eval mode, on its device.
        tokenizer: its tokenizer.
        batches: iterates the held-out :class:`TokenBatch` es, same order and batch size for every model.
        teacher: a live teacher (``signals``) or None where there is none.
        teacher_batches: True where ``model`` *is* the teacher.
    """

    name: str
    model: Any
    tokenizer: Any
    batches: Callable[[], Iterable[TokenBatch]]
    teacher: Teacher | None
    is_teacher: bool = False


@dataclass(frozen=True)
class Measurement:
    """One metric of one model, with what is needed to compare it fairly.

    Args:
        metric: e.g. ``cross_entropy``.
        value: the figure.
        unit: e.g. ``nat/token``.
        n: number of rows.
        higher_is_better: direction.
        document_sums: per document id, (sum over rows, rows): for standard errors clustered by document and paired
            comparisons.
        detail: extra series, e.g. by position; JSON-serialisable.
    """

    metric: str
    value: float
    unit: str
    n: int
    higher_is_better: bool
    document_sums: Mapping[str, tuple[float, float]]
    detail: Mapping[str, Any]


class Evaluator(Protocol):
    """Measures one model on held-out batches."""

    def evaluate(self, context: EvaluationContext) -> list[Measurement]: ...


class Synthesizer(Protocol):
    """Makes or selects a data set; yields records like a source, with provenance."""

    def synthesize(self, source: Iterable[Mapping[str, Any]], directory: Path) -> Iterator[dict[str, Any]]: ...
