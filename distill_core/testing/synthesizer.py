"""Conformance of synthesizers: records that survive JSON, the same ones every time, and a source left as it is.

The source is four records with text, prompt and completion, or what the options model's classmethod
``example_records()`` returns. A synthesizer that asks a teacher gets one that writes the same answer to the same
request.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from distill_core.completions import Completion, GenerationParameters, GenerationRequest
from distill_core.interfaces import SynthesisContext
from distill_core.testing.subject import Subject
from distill_core.testing.tiny_model import tiny_tokenizer

_RECORDS: tuple[Mapping[str, Any], ...] = (
    {"text": "The state of the union is strong, and it grows.", "document": "a"},
    {"text": "Größe, naïve café, 日本語 and an emoji 🙂 stand in one line.", "document": "b"},
    {"text": "Two and two are four in every language that counts.", "document": "c", "extra": {"nested": [1, 2]}},
    {"text": "A student learns what a teacher leaves out as well.", "document": "d"},
)


def records(subject: Subject) -> list[dict[str, Any]]:
    """Fresh copies, with a prompt and a completion beside the text."""
    example = getattr(subject.model, "example_records", None)
    if callable(example):
        return [copy.deepcopy(dict(record)) for record in example()]
    asked = {"prompt": "Say it again in other words.", "question": "How many?", "answer": "4"}
    return [{**asked, "completion": str(record["text"]), **copy.deepcopy(dict(record))} for record in _RECORDS]


class Writer:
    """A teacher that writes: words and a number that depend on the request alone."""

    def identity(self) -> str:
        return "the conformance kit's writer"

    def generate(self, requests: Iterable[GenerationRequest], parameters: GenerationParameters) -> Iterator[Completion]:
        for request in requests:
            asked = json.dumps([request.id, request.prompt, [dict(turn) for turn in request.messages]])
            digest = hashlib.sha256(asked.encode()).hexdigest()
            words = " ".join(digest[i : i + 4] for i in range(0, 16, 4))
            yield Completion(request.id, f" {words}.\nAnswer: {int(digest[:2], 16) % 5}", finish_reason="stop")


def made(subject: Subject, name: str, given: list[dict[str, Any]] | None = None) -> list[dict[str, Any]]:
    """By a fresh synthesizer in a directory of that name."""
    synthesizer, tokenizer = subject.build(), tiny_tokenizer()
    if hasattr(synthesizer, "build"):
        writer = Writer()
        synthesizer.build(
            SynthesisContext(
                seed=0,
                build=subject.registry.build,
                teacher=lambda name: writer,
                tokenizer=lambda: tokenizer,
                say=lambda message: None,
            )
        )
    directory = subject.directory / name
    directory.mkdir(parents=True, exist_ok=True)
    found = list(synthesizer.synthesize(records(subject) if given is None else given, directory))
    summary = synthesizer.summary() if hasattr(synthesizer, "summary") else {}
    assert json.loads(json.dumps(summary)) == summary, f"summary() is no plain data: {summary!r}"
    return found


def makes_records_that_survive_json(subject: Subject) -> None:
    """Mappings with a document, at least one of them."""
    found = made(subject, "once")
    assert found, "it made no record of the example's"
    for number, record in enumerate(found):
        assert isinstance(record, Mapping), f"record {number} is a {type(record).__name__}, expected a dict"
        assert json.loads(json.dumps(record)) == record, f"record {number} does not survive JSON: {record!r}"
        document = record.get("document")
        assert isinstance(document, str) and document, f"record {number}: document is {document!r}, expected its name"


def makes_the_same_again(subject: Subject) -> None:
    """Bit for bit: afresh in another directory, and again where it has worked already."""
    first = made(subject, "first")
    assert made(subject, "second") == first, "the same seed and source gave other records"
    assert made(subject, "first") == first, "in a directory where it has worked before it made other records"


def leaves_the_source_as_it_is(subject: Subject) -> None:
    given = records(subject)
    made(subject, "source", given)
    assert given == records(subject), "a record of the source was edited"


CHECKS = (makes_records_that_survive_json, makes_the_same_again, leaves_the_source_as_it_is)
