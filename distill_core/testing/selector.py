"""Conformance of selectors, on a small pool and a random two-layer Llama: a ranking, the same every time.

What a selector declares (``model``, ``target``, ``labels``) is what it is given, and nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from distill_core.config import StudentConfig
from distill_core.engine.data import IGNORE, TokenSequence
from distill_core.engine.features import Features
from distill_core.engine.progress import Progress
from distill_core.engine.selection import checked_order
from distill_core.interfaces import Budget, Ranking, SelectionContext
from distill_core.store import sequence_key
from distill_core.testing.subject import Subject
from distill_core.testing.tiny_model import tiny_model

VOCABULARY = 61
LABELS = ("first", "second")


def pool(*, classes: bool, seed: int = 0, count: int = 10) -> list[TokenSequence]:
    """Random tokens after a prompt of two; two domains, two classes, one sequence twice, the last of one token."""
    rng = np.random.default_rng(seed)
    drawn = [rng.integers(3, VOCABULARY, length) for length in rng.integers(5, 12, count - 2)]
    return [
        _sequence(ids, number, classes=classes)
        for number, ids in enumerate([*drawn, drawn[0], np.array([VOCABULARY - 1])])
    ]


def _sequence(ids: Any, number: int, *, classes: bool) -> TokenSequence:
    ids = np.asarray(ids, dtype=np.int32)
    labels = ids.copy()
    labels[:2] = IGNORE
    if classes:
        labels = np.full(len(ids), IGNORE, dtype=np.int32)
        labels[-1] = number % len(LABELS)
    return TokenSequence(
        ids, labels, f"document-{number // 2}", sequence_key(ids), domain="ab"[number % 2], difficulty=number / 10,
        next_token=not classes,
    )  # fmt: skip


def context(subject: Subject, directory: Path, *, sequences: int | None = None) -> SelectionContext:
    """What the selector declares, and a budget of so many sequences, or of the whole pool."""
    wanted = subject.needs().signals
    given = pool(classes="labels" in wanted)
    student = None
    if "model" in wanted:
        student = subject.directory / "student"
        if not student.is_dir():
            tiny_model(VOCABULARY).save_pretrained(student)
    features = Features(
        directory / "features",
        student=student,
        key=None if student is None else "tiny",
        config=StudentConfig.model_validate({"init": {"model": str(student)}}),
        task=None,
        batch_sequences=4,
        progress=Progress(quiet=True),
    )
    work = directory / "work"
    work.mkdir(parents=True, exist_ok=True)
    return SelectionContext(
        pool=given,
        target=pool(classes="labels" in wanted, seed=1, count=6) if "target" in wanted else None,
        budget=Budget(sequences=len(given) if sequences is None else sequences),
        labels=LABELS if "labels" in wanted else (),
        seed=0,
        features=features,
        directory=work,
        say=lambda message: None,
    )


def ranking(subject: Subject, name: str, **changes: Any) -> Ranking:
    """By a fresh selector in a directory of that name."""
    found: Ranking = subject.build().select(context(subject, subject.directory / name, **changes))
    return found


def ranks_the_pool(subject: Subject) -> None:
    """Distinct indices, a score or NaN for each sequence, what a score means, and a reason for what is refused."""
    found = ranking(subject, "once")
    order = set(checked_order(found, len(pool(classes=False)), subject.entry.id).tolist())
    assert order, f"it refused the whole pool: {dict(found.refused)}"
    assert not np.isinf(np.asarray(found.scores, dtype=np.float64)).any(), "a score is infinite; NaN says there is none"
    assert found.meaning.strip(), "meaning is empty: say in a few words what a score is"
    both = sorted(order & set(found.refused))
    assert not both, f"sequences {both} are in the order and refused"
    assert all(isinstance(reason, str) and reason.strip() for reason in found.refused.values()), "a reason is empty"
    notes = dict(found.notes)
    assert json.loads(json.dumps(notes)) == notes, f"notes are no plain data: {notes!r}"


def fills_a_small_budget(subject: Subject) -> None:
    """Of ten sequences three are to be kept: a selector may stop there, or refuse sequences, but not fall short."""
    found = ranking(subject, "small", sequences=3)
    left = len(pool(classes=False)) - len(found.refused)
    assert len(found.order) >= min(3, left), (
        f"its order has {len(found.order)} sequences and it refused {len(found.refused)} of "
        f"{len(pool(classes=False))}: the budget of 3 could be filled"
    )


def ranks_the_same_again(subject: Subject) -> None:
    """Bit for bit: afresh in another directory, and again where it has worked already."""
    first = ranking(subject, "first")
    for again in (ranking(subject, "second"), ranking(subject, "first")):
        np.testing.assert_array_equal(again.order, first.order, err_msg="the same seed and pool gave another order")
        np.testing.assert_array_equal(again.scores, first.scores, err_msg="the same seed and pool gave other scores")
        assert dict(again.refused) == dict(first.refused), "the same seed and pool gave other refusals"


def leaves_the_pool_as_it_is(subject: Subject) -> None:
    given = context(subject, subject.directory / "pool")
    before = _content(given.pool)
    subject.build().select(given)
    assert _content(given.pool) == before, "token ids, labels or weights of the pool were changed"


def _content(sequences: Sequence[TokenSequence]) -> list[tuple[bytes, bytes]]:
    return [(one.input_ids.tobytes(), one.labels.tobytes()) for one in sequences]


CHECKS = (ranks_the_pool, fills_a_small_budget, ranks_the_same_again, leaves_the_pool_as_it_is)
