"""What makes, judges and changes records."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from distill_core.pieces import CutRecord


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
