"""What measures models."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, Protocol

from torch import Tensor

from distill_core.flag import Flag
from distill_core.interfaces.teachers import Teacher
from distill_core.types import (
    RowIndex,
    TokenBatch,
)


@dataclass(frozen=True)
class EvaluationContext:
    """What an evaluator is given for one model; for ``evaluate_data``, of the data: there ``model`` is None.

    Args:
        name: ``teacher``, ``student`` or the name of a compared model.
        model: the model in eval mode, on its device.
        tokenizer: its tokenizer, None where a task reads no text.
        batches: iterates the held-out :class:`TokenBatch` es, same order and batch size for every model.
        teacher: a live teacher (``signals``) or None where there is none.
        is_teacher: True where ``model`` *is* the teacher.
        teacher_rows: True where every :class:`EvaluatedRows` carries the teacher's logits.
        teacher_missing: why it does not, for messages.
        labels: of a task: what class ids stand for; empty where the next token is predicted.
        build: builds another component: ``ctx.build("checker", {"use": "numeric-answer"})``.
        training: the sequences that students were trained on (``engine.data.TokenSequence``), None if not known.
        records: ``records("eval")``, ``records("train")``: (document, record) with every field of the record, as the
            data stage read them, filtered and transformed; None where they are not known.
        seed: the run's seed.
    """

    name: str
    model: Any
    tokenizer: Any
    batches: Callable[[], Iterable[TokenBatch]]
    teacher: Teacher | None
    is_teacher: bool = False
    teacher_rows: bool = False
    teacher_missing: str = "no teacher was given"
    labels: tuple[str, ...] = ()
    build: Callable[[str, Mapping[str, Any]], Any] | None = None
    training: Sequence[Any] | None = None
    records: Callable[[str], Iterable[tuple[str, Mapping[str, Any]]]] | None = None
    seed: int = 0


@dataclass(frozen=True)
class Measurement:
    """One metric of one model, with what is needed to compare it fairly.

    Args:
        metric: e.g. ``cross_entropy``; a name for files.
        value: the figure, the ratio of the sums in ``document_sums`` (through ``transform``).
        unit: e.g. ``nat/token``; ``fraction`` is shown in per cent.
        n: number of rows.
        higher_is_better: direction; None where neither is better (a fitted temperature, likeness to the teacher): then
            models are not compared by it, and nothing is said to be better.
        document_sums: per document id, (sum over rows, denominator: rows, or bytes): for standard errors clustered by
            document and paired comparisons.
        detail: extra series, e.g. by position; JSON-serialisable.
        transform: ``identity``, or ``exp`` where the figure is the exponential of the ratio (perplexity).
        derived_from: metric that this one restates on another scale; it is compared there, not twice.
        label: the metric's name for people; default: from ``metric``.
        aspect: what it is about, the section of the report it goes to: ``utility``, ``fidelity``, ``calibration``,
            ``reasoning``, ``diversity``, ``integrity``, ``fairness``, ``transfer``, ``continual``, ``distillation``,
            ``influence``, ``cost``, or a name of your own; default: the evaluator's own ``aspect``, if it has such an
            attribute, else seen from what the metric is.
        primary: True where a report's verdict should speak of it.
        flags: what was found that forbids or weakens a claim.
    """

    metric: str
    value: float
    unit: str
    n: int
    higher_is_better: bool | None
    document_sums: Mapping[str, tuple[float, float]]
    detail: Mapping[str, Any]
    transform: Literal["identity", "exp"] = "identity"
    derived_from: str | None = None
    label: str = ""
    aspect: str = ""
    primary: bool = False
    flags: tuple[Flag, ...] = ()


class Evaluator(Protocol):
    """Free form: measures one model on held-out batches in a pass of its own."""

    def evaluate(self, context: EvaluationContext) -> list[Measurement]: ...


class DataEvaluator(Protocol):
    """Measures the data of a run rather than a model: called once, with ``context.model`` None.

    An evaluator may have this beside ``evaluate`` or ``begin``. What it returns stands under ``data.metrics``.
    """

    def evaluate_data(self, context: EvaluationContext) -> list[Measurement]: ...


@dataclass(frozen=True)
class EvaluatedRows:
    """A chunk of rows of one batch, with what a model and the teacher say there over the whole vocabulary.

    Legend: n rows of the chunk, N rows of the batch, V the model's vocabulary, U the teacher's.

    Args:
        batch: the batch the rows belong to.
        index: all N rows of the batch.
        cut: which of them this chunk holds; ``cut.start == 0`` marks the first chunk of a batch.
        logits_nV: the model's final logits, fp32 (after scale, bias and soft cap).
        teacher_logits_nU: the teacher's, or None.
        effective_vocabulary: ``len(tokenizer)``; columns beyond it are padding rows of a head.
        memo: shared by all models on this chunk: a place to keep what depends on the teacher alone.
    """

    batch: TokenBatch
    index: RowIndex
    cut: slice
    logits_nV: Tensor
    teacher_logits_nU: Tensor | None
    effective_vocabulary: int
    memo: dict[str, Any] = field(default_factory=dict)

    @property
    def labels_n(self) -> Tensor:
        return self.index.labels_N[self.cut]

    @property
    def position_n(self) -> Tensor:
        return self.index.position_N[self.cut]

    @property
    def sequence_n(self) -> Tensor:
        return self.index.sequence_N[self.cut]

    @cached_property
    def logp_nV(self) -> Tensor:
        """The model's log-probabilities over all rows of its head; computed once for all evaluators."""
        return self.logits_nV.log_softmax(dim=1)

    @cached_property
    def best_n(self) -> tuple[Tensor, Tensor]:
        """Log-probability and id of the most likely token of each row."""
        logp_n, id_n = self.logp_nV.max(dim=1)
        return logp_n, id_n


class RowAccumulator(Protocol):
    """Collects one metric family of one model over the shared pass."""

    def update(self, rows: EvaluatedRows) -> None: ...

    def measurements(self) -> list[Measurement]: ...


class RowEvaluator(Protocol):
    """Fed: all models go over the held-out batches together, so the teacher runs once per batch, not once per student.

    The evaluator sees chunks of full-vocabulary logits, teacher's beside the model's, and never runs a model itself.
    """

    def begin(self, context: EvaluationContext) -> RowAccumulator | None:
        """An accumulator for ``context.name``, or None where the metric has no meaning for it (a teacher's fidelity).

        Raises ``SignalError`` where something it needs is missing; the results then list it as not measured, with
        the message as the reason.
        """
        ...
