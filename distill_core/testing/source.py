"""Conformance of sources: records of the right form, the same ones every time, and a fingerprint of what was read."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from itertools import islice
from typing import Any

from distill_core.testing.subject import NotApplicable, Subject

LOOKED_AT = 200


def first_records(subject: Subject) -> list[Mapping[str, Any]]:
    return list(islice(subject.build().records(), LOOKED_AT))


def yields_records_with_text_and_a_document(subject: Subject) -> None:
    records = first_records(subject)
    assert records, "the source yields no record"
    for number, record in enumerate(records):
        assert isinstance(record, Mapping), f"record {number} is a {type(record).__name__}, expected a dict"
        texts = ("text",) if "text" in record else ("prompt", "completion")
        for key in (*texts, "document"):
            value = record.get(key)
            assert isinstance(value, str) and value, f"record {number}: {key!r} is {value!r}, expected a non-empty str"


def yields_the_same_records_again(subject: Subject) -> None:
    """From the same object and from a fresh one."""
    source = subject.build()
    first = list(islice(source.records(), LOOKED_AT))
    assert list(islice(source.records(), LOOKED_AT)) == first, "a second pass over the same source differs"
    assert first_records(subject) == first, "a fresh source yields other records"


def records_are_json(subject: Subject) -> None:
    for record in first_records(subject):
        assert json.loads(json.dumps(record)) == record, f"a record does not survive JSON: {record!r}"


def fingerprint_is_equal_across_processes(subject: Subject) -> None:
    """Two processes with different hash seeds, and this one."""
    own = subject.build().fingerprint()
    assert isinstance(own, str) and len(own) >= 8, f"fingerprint() is {own!r}, expected a hash as text"
    if subject.entry.value is not None:
        raise NotApplicable("registered in this process, so another one does not know it")
    options = subject.options().model_dump_json()
    for seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", _FINGERPRINT, subject.entry.component.kind, subject.entry.id, options],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"another process cannot build it:\n{done.stderr}"
        found = done.stdout.splitlines()[-1]
        assert found == own, f"fingerprint is {own} here and {found} in another process (Python's hash() is salted)"


_FINGERPRINT = """
import json, sys
from distill_core.registry import get_registry
kind, name, options = sys.argv[1:]
print(get_registry(strict=False).build(kind, {"use": name, **json.loads(options)}).fingerprint())
"""

CHECKS = (
    yields_records_with_text_and_a_document,
    yields_the_same_records_again,
    records_are_json,
    fingerprint_is_equal_across_processes,
)
