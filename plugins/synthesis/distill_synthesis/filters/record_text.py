"""The text of a record that a filter looks at."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from distill_core.funnel import text_parts
from distill_synthesis.filters.options import Part


def text_of(record: Mapping[str, Any], part: Part = "all") -> str:
    """What a record says, a line for each of its texts; empty where it says nothing.

    Args:
        record: with ``text``, ``prompt`` and ``completion``, ``parts`` or ``messages``.
        part: ``prompt``: what is not answered with; ``answer``: the completion, the assistant's last turn, the
            predicted parts, or the whole of a plain text.

    >>> record = {"prompt": "Say yes.", "completion": "yes"}
    >>> text_of(record), text_of(record, "answer"), text_of({"text": "a"}, "prompt")
    ('Say yes.\\nyes', 'yes', '')
    """
    texts = [text for text, answers in text_parts(record) if part == "all" or answers == (part == "answer")]
    return encodable("\n".join(texts))


def encodable(text: str) -> str:
    """The text with a question mark for each lone surrogate, which tokenizers and servers refuse.

    >>> encodable("a\\ud800")
    'a?'
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "replace").decode("utf-8")
    return text


def document_of(record: Mapping[str, Any], number: int) -> str:
    """The record's document id, or its number where it has none."""
    return str(record.get("document", f"record-{number}"))
