"""The transform ``pii-redact``: personal data that can be told by its form is replaced."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from distill_synthesis.filters.options import PiiRedactOptions
from distill_synthesis.filters.personal_data import findings

FIELDS = ("text", "prompt", "completion", "question", "rationale", "answer")


class PiiRedact:
    """Puts ``[EMAIL]`` and the like in the place of personal data; ``provenance`` counts what was replaced.

    Looked at are the texts of a record, its messages and parts; ids and other fields stay as they are.

    >>> list(PiiRedact(PiiRedactOptions()).transform({"text": "Mail jane@example.org."}))
    [{'text': 'Mail [EMAIL].', 'provenance': {'redacted': {'email': 1}}}]
    """

    def __init__(self, options: PiiRedactOptions) -> None:
        self.options = options

    def transform(self, record: Mapping[str, Any]) -> list[Mapping[str, Any]]:
        """One record; the same one where nothing was found."""
        count: Counter[str] = Counter()
        made = {name: self._clean(value, count) if name in FIELDS else value for name, value in record.items()}
        for name, field in (("messages", "content"), ("parts", "text")):
            if isinstance(entries := record.get(name), list):
                made[name] = [
                    {**one, field: self._clean(one[field], count)} if isinstance(one, Mapping) and field in one else one
                    for one in entries
                ]
        if not count:
            return [record]
        made["provenance"] = {**(record.get("provenance") or {}), "redacted": dict(sorted(count.items()))}
        return [made]

    def _clean(self, value: Any, count: Counter[str]) -> Any:
        if not isinstance(value, str):
            return value
        pieces, end = [], 0
        for one in findings(value, self.options.kinds):
            count[one.kind] += 1
            pieces += [value[end : one.start], self.options.replacement.replace("{kind}", one.kind.upper())]
            end = one.end
        return "".join([*pieces, value[end:]])
