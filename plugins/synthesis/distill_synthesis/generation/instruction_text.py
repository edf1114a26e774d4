"""Instructions in what a teacher wrote, and in records."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from distill_core.errors import DataError

_QUOTES = (('"', '"'), ("'", "'"), ("\u201c", "\u201d"), ("```", "```"))
_LABEL = re.compile(r"^\s*(?:#{0,3}\s*(?:new |rewritten |created )?(?:prompt|instruction|task)\s*#{0,3}\s*:)\s*", re.I)


def plain_instruction(text: str) -> str:
    """Without a label before it, and without quotation marks around the whole.

    >>> plain_instruction(' Instruction: "Say yes." ')
    'Say yes.'
    """
    text = _LABEL.sub("", text).strip()
    for opening, closing in _QUOTES:
        inner = text[len(opening) : -len(closing)]
        around = len(text) > len(opening + closing) and text.startswith(opening) and text.endswith(closing)
        if around and opening not in inner and closing not in inner:
            return inner.strip()
    return text


def numbered_instructions(text: str, *, label: str = "Task") -> list[str]:
    """The instructions of a text that goes on after ``Task 9:``, each up to the next such label.

    >>> numbered_instructions(" Name a bird.\\nTask 10: Name a fish.\\n\\nTask 11:")
    ['Name a bird.', 'Name a fish.']
    """
    parts = re.split(rf"(?:^|\n)\s*{label} \d+:", text)
    return [found for part in parts if (found := " ".join(part.split()))]


def instruction_of(record: Mapping[str, Any], *, document: str, who: str) -> str:
    """The instruction of a record: its ``prompt``, ``question`` or ``instruction``, or the user's only turn.

    Raises:
        DataError: it has none.
    """
    for name in ("prompt", "question", "instruction"):
        value = record.get(name)
        if isinstance(value, str) and value.strip():
            return value.strip()
    messages = record.get("messages")
    if isinstance(messages, list):
        turns = [turn for turn in messages if isinstance(turn, Mapping) and turn.get("role") == "user"]
        if len(turns) == 1 and isinstance(turns[0].get("content"), str) and turns[0]["content"].strip():
            return str(turns[0]["content"]).strip()
    raise DataError(
        f"{who}: document {document} has no instruction; expected `prompt`, `question`, `instruction`, or `messages` "
        f"with one turn of the user, received the fields {sorted(record)}"
    )


@dataclass(frozen=True)
class Named:
    """A record of the source.

    Args:
        name: its document, with a number behind it from the second record of one document on.
        document: its document, or its place in the source.
        record: as it came.
    """

    name: str
    document: str
    record: Mapping[str, Any]


def named(source: Iterable[Mapping[str, Any]]) -> Iterator[Named]:
    """Records with names of their own.

    >>> [one.name for one in named([{"document": "a"}, {"document": "a"}, {}])]
    ['a', 'a~2', 'record-2']
    """
    seen: Counter[str] = Counter()
    for number, record in enumerate(source):
        document = str(record.get("document", f"record-{number}"))
        seen[document] += 1
        yield Named(document if seen[document] == 1 else f"{document}~{seen[document]}", document, record)
