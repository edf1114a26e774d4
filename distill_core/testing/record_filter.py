"""Conformance of filters: None or a reason for each record, the same verdicts every time, records left as they are."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from distill_core.completions import Completion, GenerationParameters, GenerationRequest
from distill_core.testing.subject import Subject

_RECORDS: tuple[Mapping[str, Any], ...] = (
    {"text": "The state of the union is strong.", "document": "a"},
    {"text": "The state of the union is strong.", "document": "b"},
    {"text": "x", "document": "c"},
    {"text": "", "document": "d"},
    {"text": "Größe, naïve café, 日本語 and an emoji 🙂. " * 40, "document": "e"},
    {"prompt": "Say yes.", "completion": "yes", "document": "f", "extra": {"nested": [1, 2]}},
    {"text": "NUL \0, a direction \u202e, a lone surrogate \ud800.", "document": "g"},
    {"text": "مرحبا بالعالم، هذا نص", "document": "h"},
    {"text": "word " * 4000, "document": "i"},
    {"messages": [{"role": "user", "content": "Hello?"}, {"role": "assistant", "content": "Hello."}]},
)
"""Duplicates, an empty text, long ones, other scripts, hostile characters, a prompt form and a conversation."""


def records() -> list[dict[str, Any]]:
    """Fresh copies: a filter under test may edit them."""
    return [copy.deepcopy(dict(record)) for record in _RECORDS]


class _Writer:
    """A teacher that writes the same to everybody."""

    def identity(self) -> str:
        return "conformance-writer"

    def generate(self, requests: Iterable[GenerationRequest], parameters: GenerationParameters) -> Iterator[Completion]:
        return (Completion(request.id, "4") for request in requests)


def built(subject: Subject) -> Any:
    """A fresh filter, ready to judge: given a context if it has ``build``."""
    judge = subject.build()
    if callable(getattr(judge, "build", None)):
        from distill_core.interfaces import FilterContext
        from distill_core.testing.tiny_model import tiny_tokenizer

        judge.build(
            FilterContext(
                seed=0,
                build=subject.registry.build,
                teacher=lambda name: _Writer(),
                tokenizer=tiny_tokenizer,
                say=lambda message: None,
                directory=subject.directory / "filters",
            )
        )
    return judge


def gives_none_or_a_reason(subject: Subject) -> None:
    judge = built(subject)
    for record in records():
        verdict = judge.verdict(record)
        assert verdict is None or (isinstance(verdict, str) and verdict.strip()), (
            f"verdict is {verdict!r}; expected None to keep a record, or the reason to drop it"
        )


def gives_the_same_verdicts_again(subject: Subject) -> None:
    """A fresh filter over the same records."""
    first, second = built(subject), built(subject)
    assert [first.verdict(r) for r in records()] == [second.verdict(r) for r in records()]


def gives_the_same_verdicts_several_at_a_time(subject: Subject) -> None:
    one, several = built(subject), built(subject)
    if not hasattr(several, "verdicts"):
        return
    given, alone = list(several.verdicts(records())), [one.verdict(record) for record in records()]
    assert len(given) == len(alone), f"verdicts() gave {len(given)} verdicts on {len(alone)} records"
    differ = [(a, b) for a, b in zip(given, alone, strict=True) if (a is None) != (b is None)]
    assert not differ, f"verdicts() and verdict() disagree: {differ[:3]}"


def leaves_records_as_they_are(subject: Subject) -> None:
    judge = built(subject)
    for record in records():
        before = copy.deepcopy(record)
        judge.verdict(record)
        assert record == before, f"the record was edited: {before!r} became {record!r}"


CHECKS = (
    gives_none_or_a_reason,
    gives_the_same_verdicts_again,
    gives_the_same_verdicts_several_at_a_time,
    leaves_records_as_they_are,
)
