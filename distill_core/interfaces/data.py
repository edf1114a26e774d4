"""What makes, judges and changes records."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from distill_core.errors import DataError

if TYPE_CHECKING:
    from distill_core.pieces import CutRecord

Floats = npt.NDArray[np.float32]


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
    """Judges records; ``verdict`` is None to keep, or the reason to drop, as ``kind: detail``.

    The kind is counted, so it is the same for records that are dropped for the same reason; the detail is shown with a
    few examples. Judging is deterministic, and what a filter remembers of earlier records is of one pass.

    Optional: ``build(ctx)`` with a :class:`FilterContext`, before the first record, for one that needs a model, a
    tokenizer, a source or a teacher (it declares what it asks a teacher for, ``signals=("text",)``; an option
    ``teacher`` names which). ``verdicts(records)``, a verdict each, for one that judges several at a time, up to
    ``batch_records`` of them. ``private = True``: examples of what it drops do not show the text.
    """

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


def _undeclared(asked: Any) -> Any:
    raise DataError(
        "this synthesizer asked for the student or its sequences, which it does not declare: add the signal `model`"
    )


@dataclass(frozen=True)
class SynthesisContext:
    """Given to ``build(ctx)`` of a synthesizer before it makes records.

    Args:
        seed: the run's seed.
        build: builds another component: ``ctx.build("checker", {"use": "numeric-answer"})``.
        teacher: ``ctx.teacher(name)`` is a live teacher of the run file, loaded once; ``ctx.teacher(None)`` the first.
        tokenizer: ``ctx.tokenizer()`` is the student's tokenizer, which makes the data.
        say: prints a message beside the progress.
        task: what the student predicts; None: the next token. This and the next two need the signal ``model``.
        student: ``ctx.student(seed)`` is a new initial student, fp32, of one's own: what a pretrained one lacks (the
            head of a task) is drawn from that seed, and everything is where the run file makes it from a config.
        sequences: ``ctx.sequences(record)`` are the sequences that the data stage makes of a record
            (``distill_core.engine.data.TokenSequence``), none for one that is too short.
    """

    seed: int
    build: Callable[[str, Mapping[str, Any]], Any]
    teacher: Callable[[str | None], Any]
    tokenizer: Callable[[], Any]
    say: Callable[[str], None]
    task: Any = field(default=None, kw_only=True)
    student: Callable[[int], Any] = field(default=_undeclared, kw_only=True)
    sequences: Callable[[Mapping[str, Any]], list[Any]] = field(default=_undeclared, kw_only=True)


@dataclass(frozen=True)
class FilterContext(SynthesisContext):
    """Given to ``build(ctx)`` of a filter before it judges records.

    A synthesizer that filters what it makes gives its own on:
    ``build_filter(reference, FilterContext(**vars(ctx), directory=directory))`` (``distill_core.filtering``).

    Args:
        directory: what a filter keeps there survives an interruption and is shared by the filters of a run, so it is
            named and keyed by its content; created at need.
    """

    directory: Path


class Synthesizer(Protocol):
    """Makes or selects a data set; yields records like a source, with provenance.

    ``directory`` is its own: what it keeps there survives an interruption, after which it is called again. One that
    asks a teacher declares what it needs of it (``signals=("text",)`` for one that must write); an option ``teacher``
    names which one. One that reads the student, or how records become sequences, declares ``model``. Optional:
    ``build(ctx)`` with a :class:`SynthesisContext`, and ``summary()``, plain data about what was made, kept with the
    stage.
    """

    def synthesize(self, source: Iterable[Mapping[str, Any]], directory: Path) -> Iterator[dict[str, Any]]: ...


@dataclass(frozen=True)
class Budget:
    """How much a selection keeps: sequences in the order of its ranking, until the next one would go beyond.

    Args:
        sequences: most sequences.
        tokens: most tokens, None for no limit.

    >>> Budget(sequences=9, tokens=10).fitting(np.array([4, 5, 2, 1]))
    2
    """

    sequences: int
    tokens: int | None = None

    def fitting(self, lengths: npt.NDArray[np.int64]) -> int:
        """How many of the first of these sequences, by their lengths in tokens, are kept."""
        count = min(self.sequences, len(lengths))
        if self.tokens is None:
            return count
        return min(count, int(np.searchsorted(np.cumsum(lengths), self.tokens, side="right")))

    def most(self, lengths: npt.NDArray[np.int64]) -> int:
        """How many of these sequences can be kept in the best case, whatever their order."""
        return self.fitting(np.sort(lengths))


@dataclass(frozen=True)
class Ranking:
    """What a selector thinks of a pool of N sequences.

    Args:
        order: indices into the pool, each at most once, the first to keep first. A selector may stop once the budget is
            certainly filled.
        scores: [N], one number per sequence; NaN where it has none.
        meaning: what a score is, in a few words.
        refused: why a sequence is not in ``order`` although it was looked at, by index; ``kind: detail`` is counted
            with its kind.
        notes: plain data about the selection, kept with the stage.
    """

    order: npt.NDArray[np.int64]
    scores: npt.NDArray[np.float64]
    meaning: str
    refused: Mapping[int, str] = field(default_factory=dict)
    notes: Mapping[str, Any] = field(default_factory=dict)


class Features(Protocol):
    """Numbers that a model gives for n sequences, computed once and kept on disk; read-only arrays.

    ``state`` is a model other than the initial student (``distill_core.engine.features.ModelState``).
    """

    def initial(self) -> Any:
        """The state of the initial student; raises ``DataError`` where the selector does not declare ``model``."""
        ...

    def fresh_model(self) -> Any:
        """A copy of the initial student of one's own, fp32, on its device."""
        ...

    def hidden(self, sequences: Sequence[Any], state: Any = None) -> Floats:
        """[n, D] mean of the last hidden state over each sequence's tokens."""
        ...

    def losses(self, sequences: Sequence[Any], state: Any = None) -> Floats:
        """[n] mean cross-entropy of each sequence in nat; 0 where nothing is to be predicted."""
        ...

    def error_norms(self, sequences: Sequence[Any], state: Any = None) -> Floats:
        """[n] mean over predictions of the distance between probabilities and the one-hot label."""
        ...

    def gradient_norms(self, sequences: Sequence[Any], state: Any = None, *, layers: str | None = None) -> Floats:
        """[n] norm of each sequence's gradient over the linear layers that a regular expression finds."""
        ...

    def doubts(self, sequences: Sequence[Any], state: Any = None) -> Floats:
        """[n] mean over predictions of ``1 - p`` of the label."""
        ...

    def entropies(self, sequences: Sequence[Any], state: Any = None) -> Floats:
        """[n] mean entropy of the predictions in nat."""
        ...

    def leads(self, sequences: Sequence[Any], state: Any = None) -> Floats:
        """[n] mean lead of the likeliest outcome's probability over the next one's."""
        ...

    def gradients(
        self,
        sequences: Sequence[Any],
        state: Any = None,
        *,
        dim: int,
        seed: int,
        layers: str | None = None,
        of: Literal["loss", "margin"] = "loss",
    ) -> Floats:
        """[n, dim] random projections of each sequence's gradient over linear layers without the head.

        ``of``: the gradient of the mean loss, or of the mean log-odds of the labels.
        """
        ...


@dataclass(frozen=True)
class SelectionContext:
    """Given to a selector.

    Args:
        pool: the prepared sequences to choose from, at least one (``distill_core.engine.data.TokenSequence``).
        target: sequences of ``data.target``; None unless the selector asks for the signal ``target``.
        budget: how much will be kept; it never exceeds the pool.
        labels: of a task: what class ids stand for; empty where the next token is predicted.
        seed: the run's seed.
        features: features of sequences by the initial student, computed once and shared by selectors; they need the
            signal ``model``.
        directory: its own; what it keeps there survives an interruption, after which it is called again.
        say: prints a message beside the progress.
    """

    pool: Sequence[Any]
    target: Sequence[Any] | None
    budget: Budget
    labels: tuple[str, ...]
    seed: int
    features: Features
    directory: Path
    say: Callable[[str], None]

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Tokens of each sequence of the pool."""
        return np.array([len(sequence) for sequence in self.pool], dtype=np.int64)


class Selector(Protocol):
    """Ranks the sequences of a pool; the engine keeps the first that fit into the budget.

    It declares what it reads, ``signals=("model", "target", "labels")`` or some of them; its options model may refine
    that in ``needs(declared)``.
    """

    def select(self, context: SelectionContext) -> Ranking:
        """Deterministic given the context; raises ``DataError`` for a pool that it cannot rank."""
        ...
