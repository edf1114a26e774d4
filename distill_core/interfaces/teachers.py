"""Who answers: teachers, generators, and what stands between several of them or two vocabularies."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol, runtime_checkable

from distill_core.completions import Completion, GenerationParameters, GenerationRequest
from distill_core.plugin import Needs
from distill_core.store.tokenizer import VocabularyInfo
from distill_core.types import (
    RowTarget,
    SparseSpec,
    TeacherSignals,
    TokenBatch,
)


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

    Optional, for who keeps a budget: ``most_spent(request, parameters) -> Spending``, the most that one attempt at a
    request can cost (without it: a token per byte, and no money), and ``watch_losses(watcher)``, after which
    ``watcher(Spending)`` is called, from any thread, after an attempt that may have been paid for in vain and before
    the next one, which is not made if it raises; ``watch_losses(None)`` ends that. A teacher that answers a prompt as a
    question instead of going on with it says so by ``continues_prompts = False``.
    """

    def generate(self, requests: Iterable[GenerationRequest], parameters: GenerationParameters) -> Iterator[Completion]:
        """One completion per request, in the order of the requests, as they are ready.

        The same request and parameters give the same answer as far as the teacher can (floating point, a server's
        scheduling), whatever else is asked beside it. Raises ``SignalError`` for what it cannot give, ``DataError``
        where an id occurs twice.
        """
        ...

    def identity(self) -> str: ...


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
