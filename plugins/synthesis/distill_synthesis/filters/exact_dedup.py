"""The ``exact-dedup`` filter: the first of equal records stays."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from distill_synthesis.filters.options import ExactDedupOptions

CONTENT = ("text", "prompt", "completion", "messages")
"""Fields that make the content of a record; ids and metadata play no part."""


class ExactDedup:
    """Drops a record whose content was seen before, by a 128-bit hash.

    >>> judge = ExactDedup(ExactDedupOptions(ignore="whitespace"))
    >>> [judge.verdict({"text": text}) for text in ("a b", "a c", "a  b")]
    [None, None, 'duplicate']
    """

    def __init__(self, options: ExactDedupOptions) -> None:
        self.options = options
        self._seen: set[bytes] = set()

    def verdict(self, record: Mapping[str, Any]) -> str | None:
        content = {field: self._plain(record[field]) for field in CONTENT if field in record}
        text = json.dumps(content, sort_keys=True, ensure_ascii=False, default=str)
        key = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
        if key in self._seen:
            return "duplicate"
        self._seen.add(key)
        return None

    def _plain(self, value: Any) -> Any:
        if self.options.ignore == "whitespace" and isinstance(value, str):
            return " ".join(value.split())
        return value
