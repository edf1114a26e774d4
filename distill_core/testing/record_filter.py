"""Conformance of filters: None or a reason for each record, the same verdicts every time, records left as they are."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from distill_core.testing.subject import Subject

_RECORDS: tuple[Mapping[str, Any], ...] = (
    {"text": "The state of the union is strong.", "document": "a"},
    {"text": "The state of the union is strong.", "document": "b"},
    {"text": "x", "document": "c"},
    {"text": "", "document": "d"},
    {"text": "Größe, naïve café, 日本語 and an emoji 🙂. " * 40, "document": "e"},
    {"prompt": "Say yes.", "completion": "yes", "document": "f", "extra": {"nested": [1, 2]}},
)
"""Duplicates, an empty text, a long one, other scripts, and a record in prompt form."""


def records() -> list[dict[str, Any]]:
    """Fresh copies: a filter under test may edit them."""
    return [copy.deepcopy(dict(record)) for record in _RECORDS]


def gives_none_or_a_reason(subject: Subject) -> None:
    judge = subject.build()
    for record in records():
        verdict = judge.verdict(record)
        assert verdict is None or (isinstance(verdict, str) and verdict.strip()), (
            f"verdict is {verdict!r}; expected None to keep a record, or the reason to drop it"
        )


def gives_the_same_verdicts_again(subject: Subject) -> None:
    """A fresh filter over the same records."""
    first, second = subject.build(), subject.build()
    assert [first.verdict(r) for r in records()] == [second.verdict(r) for r in records()]


def leaves_records_as_they_are(subject: Subject) -> None:
    judge = subject.build()
    for record in records():
        before = copy.deepcopy(record)
        judge.verdict(record)
        assert record == before, f"the record was edited: {before!r} became {record!r}"


CHECKS = (gives_none_or_a_reason, gives_the_same_verdicts_again, leaves_records_as_they_are)
