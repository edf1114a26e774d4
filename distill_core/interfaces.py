"""The Protocols that plugins implement, one per kind. Nothing here runs; it is what the engine relies on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from torch import Tensor, nn

from distill_core.completions import Completion, GenerationParameters, GenerationRequest
from distill_core.plugin import Needs
from distill_core.store.tokenizer import VocabularyInfo as VocabularyInfo
from distill_core.types import (
    LossTerm,
    RowIndex,
    RowInfo,
    RowTarget,
    SparseSpec,
    StudentView,
    SupportLogits,
    TeacherSignals,
    TokenBatch,
)

if TYPE_CHECKING:
    from distill_core.pieces import CutRecord


@dataclass(frozen=True)
class BuildContext:
    """Given to ``build(ctx)`` before the optimizer is made.

    Args:
        student: the student model (a ``PreTrainedModel``); its config gives widths and depths.
        teacher_config: the teacher's ``PretrainedConfig`` if it has one, else None.
        total_steps: optimizer steps of the run.
        seed: the run's seed.
        build: builds another component: ``ctx.build("schedule", {"use": "linear", "start": 0, "end": 1})``.
        tokenizer: the student's tokenizer, which made the data; None where a task reads no text.
        teacher: the live teacher, None where signals come from a store or there is none.
        directory: where this training writes; what is kept there survives an interruption.
        rank, world_size: this process among all.
        data: the training sequences (``distill_core.engine.data.TokenSequence``), None outside a training.
        rollout: the built rollout that writes the sequences of each step, None where they are the data's own.
    """

    student: nn.Module
    teacher_config: Any
    total_steps: int
    seed: int
    build: Callable[[str, Mapping[str, Any]], Any]
    tokenizer: Any = None
    teacher: Any = None
    directory: Path | None = None
    rank: int = 0
    world_size: int = 1
    data: Sequence[Any] | None = None
    rollout: Any = None


class StepContext(Protocol):
    """Given to ``on_step_end(ctx)`` after each optimizer step."""

    step: int
    total_steps: int


@runtime_checkable
class Teacher(Protocol):
    """Answers for batches; never trained. Also has ``vocabulary() -> VocabularyInfo`` and ``identity() -> str``.

    Optional, for a live teacher that changes while the student trains (an average of its weights): ``build(ctx)``,
    ``on_step_end(ctx)``, and ``state_dict()`` / ``load_state_dict(state)`` for the checkpoints.
    """

    def signals(self, batch: TokenBatch, needs: Needs, sparse: SparseSpec | None = None) -> TeacherSignals:
        """Signals named in ``needs.signals``. With ``"targets"``: at ``batch.rows()``, made sparse as ``sparse`` says
        (a stored teacher returns what it holds). Raises ``SignalError`` for what it cannot give."""
        ...

    def vocabulary(self) -> VocabularyInfo: ...

    def identity(self) -> str:
        """Teacher id and revision for the store, equal across machines (content hash where there is no revision)."""
        ...


@runtime_checkable
class Generator(Protocol):
    """A teacher that can write; it declares the signal ``"text"``. May keep a ``tally`` (``GenerationTally``).

    A teacher of kind ``teacher`` that only writes still answers ``signals``, by refusing.
    """

    def generate(self, requests: Iterable[GenerationRequest], parameters: GenerationParameters) -> Iterator[Completion]:
        """One completion per request, in the order of the requests, as they are ready.

        The same request and parameters give the same answer as far as the teacher can (floating point, a server's
        scheduling), whatever else is asked beside it. Raises ``SignalError`` for what it cannot give, ``DataError``
        where an id occurs twice.
        """
        ...

    def identity(self) -> str: ...


class RowObjective(Protocol):
    """Fused: called per chunk of rows inside the one pass over the head.

    Optional: ``temperatures(step, total_steps) -> tuple[float, ...]`` (default ``(1.0,)``), ``extras`` (tuple of
    ``SupportLogits`` extras it reads), ``view(target) -> RowTarget`` (default: the target itself), ``count(batch)``,
    ``build(ctx)``, ``on_step_end(ctx)``, ``parameters()``, ``state_dict()`` / ``load_state_dict()``, ``exported``;

    - ``prepare(batch, signals, rows) -> Mapping[str, Tensor]``: called once per micro-batch before the pass, with all
      its rows, for what needs more than a chunk of them (returns along a sequence, ranks). Its [N, ...] tensors,
      without gradient, come back cut to the chunk as ``rows.extra``.
    - ``student_support``: an int k. ``rows`` is then given the student's exact distribution on *its own* k most likely
      tokens, chosen without gradient, instead of the target's support.
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


class Rollout(Protocol):
    """Makes the sequences of an optimizer step: on-policy training, where the student or the teacher writes.

    Called before the denominators of the step are counted. What it knows of the tokens it sampled (behaviour
    log-probabilities) goes into ``per_token``, where a sequence comes from into ``per_sequence``. Random numbers depend
    on ``ctx.seed``, the step and the rank alone, so a resumed run writes what an uninterrupted one would have written.

    Optional: ``build(ctx)``, ``on_step_end(ctx)``, ``state_dict()`` / ``load_state_dict(state)``, and ``metrics()``,
    numbers by name of the last step, which go into its line of ``metrics.jsonl`` (``reported``).
    """

    def batches(self, step: int, batches: Sequence[TokenBatch]) -> Sequence[TokenBatch]:
        """As many micro-batches as the data gave for this step, on the CPU; those of the data may be among them."""
        ...


class Sampler(Protocol):
    """Says which training sequence stands at each position of the endless stream (``train.order``).

    Step s takes positions ``s * G .. (s + 1) * G``, G sequences over all processes and micro-batches. Every process
    asks for the whole step and takes its share, so a sampler knows nothing of how a step is split. Steps are asked in
    order, each when it begins; what is asked twice is answered alike. Random numbers depend on ``ctx.seed`` and the
    step alone, what is learned lies in the state: a resumed run sees what an uninterrupted one would have seen.

    Optional: ``build(ctx)`` (``ctx.data``: the sequences), ``on_step_end(ctx)``, ``state_dict()`` /
    ``load_state_dict(state)``.
    """

    def indices(self, step: int, positions: range) -> Sequence[int]:
        """As many indices into the training data as there are positions."""
        ...


class Aggregator(Protocol):
    """Mixes the distributions of several teachers into one target.

    Optional: ``build(ctx)``, ``on_step_end(ctx)``, ``state_dict()`` / ``load_state_dict(state)`` for weights that are
    learned.
    """

    def combine(self, targets: Mapping[str, RowTarget], batch: TokenBatch, temperature: float) -> TeacherSignals:
        """Signals whose ``target`` is the mixture at ``temperature``, at ``batch.rows()``.

        ``targets``: every teacher's exact target by name, all on the same ``ids_NK``. What else is known of the
        teachers (their disagreement) may come as ``extra``, one [N] tensor by name.
        """
        ...


class Alignment(Protocol):
    """Two tokenizers compared, by an :class:`Aligner`."""

    def signals(
        self, teacher: Teacher, batch: TokenBatch, needs: Needs, sparse: SparseSpec | None = None
    ) -> TeacherSignals:
        """What the teacher says of the batch's text, at the student's rows and in the student's token ids.

        ``batch`` is the student's. A row the teacher cannot be asked about has no entry (all ids -1) and all its mass
        in the tail: no loss and no gradient in any divergence. Raises ``SignalError`` for what cannot be given.
        """
        ...

    def describe(self) -> str:
        """One clause for the log: how much the vocabularies have in common."""
        ...


class Aligner(Protocol):
    """Lets a teacher with another tokenizer speak to the student (``train.vocabulary: {use: ...}``).

    Its component's ``provides`` says which signals, kinds of target and temperatures survive the translation.
    """

    def between(self, teacher_tokenizer: Any, student_tokenizer: Any) -> Alignment:
        """Raises ``VocabularyError`` for tokenizers that it cannot read."""
        ...


class RowWeight(Protocol):
    """Says how much each row of a micro-batch counts in one objective (``row_weights`` of the objective).

    The denominator of the objective stays the number of rows. Optional: ``build(ctx)``, ``on_step_end(ctx)``.
    """

    def weights(self, batch: TokenBatch, signals: TeacherSignals, rows: RowInfo) -> Tensor:
        """[N] weights, at least 0."""
        ...


class Schedule(Protocol):
    """A number that changes over training."""

    def __call__(self, step: int, total_steps: int) -> float: ...


class Task(Protocol):
    """What a student predicts where that is not the next token: one of ``labels`` per sequence, image or token.

    Nothing here needs torch. The model is loaded by an auto class of Transformers, its last linear layer becomes the
    fused head, and every objective, teacher and evaluator that works on rows works as for a language model.

    Optional: ``inputs(input_ids) -> Mapping[str, ndarray]``, what the model reads instead of the token ids of one
    sequence, by argument name (``pixel_values``); a task that has it reads no text and needs no tokenizer.
    """

    architecture: str
    """Auto class of Transformers, e.g. ``AutoModelForSequenceClassification``."""

    labels: tuple[str, ...]
    """What class ids 0, 1, ... stand for."""

    def pieces(self, record: Mapping[str, Any], *, tokenizer: Any, length_tokens: int, document: str) -> CutRecord:
        """The sequences of a record with their classes (``Piece.classes``, -100 where nothing is predicted).

        The ids of a sequence are its content: what a store knows it by. An image's are its bytes.

        Raises:
            DataError: a field that is missing or of the wrong type, or a label that is none of ``labels``.
        """
        ...


class Source(Protocol):
    """Yields records: dicts with ``text`` (or ``prompt`` and ``completion``), ``document`` (id) and free metadata."""

    def records(self) -> Iterator[dict[str, Any]]: ...

    def fingerprint(self) -> str:
        """Content hash of everything read; equal across processes and machines."""
        ...


class Filter(Protocol):
    """Judges records; ``verdict`` is None to keep, or the reason to drop."""

    def verdict(self, record: Mapping[str, Any]) -> str | None: ...


class Transform(Protocol):
    """Makes training records of a record, e.g. the tasks of a question with its rationale.

    What is returned must be usable by the data stage; a ``document`` of its own is optional.
    """

    def transform(self, record: Mapping[str, Any]) -> Iterable[Mapping[str, Any]]:
        """None, one or several records; raises ``DataError`` for a record that lacks what it needs."""
        ...


@dataclass(frozen=True)
class Verdict:
    """What a checker thinks of an answer.

    Args:
        score: from 0 (wrong) to 1 (right).
        reason: why it is not 1, in a few words; empty where there is nothing to say.
    """

    score: float
    reason: str = ""


class Checker(Protocol):
    """Judges an answer to the question of a record.

    Optional: ``canonical(answer) -> str``, equal for answers that mean the same; for votes.
    """

    def check(self, record: Mapping[str, Any], answer: str) -> Verdict:
        """Raises ``DataError`` where the record lacks what it needs to judge."""
        ...


@dataclass(frozen=True)
class EvaluationContext:
    """What an evaluator is given for one model.

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


@dataclass(frozen=True)
class Measurement:
    """One metric of one model, with what is needed to compare it fairly.

    Args:
        metric: e.g. ``cross_entropy``; a name for files.
        value: the figure, the ratio of the sums in ``document_sums`` (through ``transform``).
        unit: e.g. ``nat/token``; ``fraction`` is shown in per cent.
        n: number of rows.
        higher_is_better: direction.
        document_sums: per document id, (sum over rows, denominator: rows, or bytes): for standard errors clustered by
            document and paired comparisons.
        detail: extra series, e.g. by position; JSON-serialisable.
        transform: ``identity``, or ``exp`` where the figure is the exponential of the ratio (perplexity).
        derived_from: metric that this one restates on another scale; it is compared there, not twice.
        label: the metric's name for people; default: from ``metric``.
        primary: True where a report's verdict should speak of it.
    """

    metric: str
    value: float
    unit: str
    n: int
    higher_is_better: bool
    document_sums: Mapping[str, tuple[float, float]]
    detail: Mapping[str, Any]
    transform: Literal["identity", "exp"] = "identity"
    derived_from: str | None = None
    label: str = ""
    primary: bool = False


class Evaluator(Protocol):
    """Free form: measures one model on held-out batches in a pass of its own."""

    def evaluate(self, context: EvaluationContext) -> list[Measurement]: ...


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


@dataclass(frozen=True)
class SynthesisContext:
    """Given to ``build(ctx)`` of a synthesizer before it makes records.

    Args:
        seed: the run's seed.
        build: builds another component: ``ctx.build("checker", {"use": "numeric-answer"})``.
        teacher: ``ctx.teacher(name)`` is a live teacher of the run file, loaded once; ``ctx.teacher(None)`` the first.
        tokenizer: ``ctx.tokenizer()`` is the student's tokenizer, which makes the data.
        say: prints a message beside the progress.
    """

    seed: int
    build: Callable[[str, Mapping[str, Any]], Any]
    teacher: Callable[[str | None], Any]
    tokenizer: Callable[[], Any]
    say: Callable[[str], None]


class Synthesizer(Protocol):
    """Makes or selects a data set; yields records like a source, with provenance.

    ``directory`` is its own: what it keeps there survives an interruption, after which it is called again. One that
    asks a teacher declares what it needs of it (``signals=("text",)`` for one that must write); an option ``teacher``
    names which one. Optional: ``build(ctx)`` with a :class:`SynthesisContext`, and ``summary()``, plain data about what
    was made, kept with the stage.
    """

    def synthesize(self, source: Iterable[Mapping[str, Any]], directory: Path) -> Iterator[dict[str, Any]]: ...
