"""The ``pii`` filter: records without personal data that can be told by its form."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from distill_synthesis.filters.options import PiiOptions
from distill_synthesis.filters.personal_data import findings
from distill_synthesis.filters.record_text import text_of


class Pii:
    """Drops a record with e-mail addresses, telephone, account, card or national identity numbers, or IP addresses.

    The reason says how many of which kind, and never which; examples in the report do not show the text. What is looked
    for, and how sure it is: :mod:`distill_synthesis.filters.personal_data`. The transform ``pii-redact`` replaces
    instead of dropping.

    >>> Pii(PiiOptions()).verdict({"text": "Write to jane@example.org or john@example.org."})
    'personal data: 2 email'
    """

    private = True

    def __init__(self, options: PiiOptions) -> None:
        self.options = options

    def verdict(self, record: Mapping[str, Any]) -> str | None:
        found = Counter(one.kind for one in findings(text_of(record, self.options.part), self.options.kinds))
        if found.total() <= self.options.allowed:
            return None
        return "personal data: " + ", ".join(f"{count} {kind}" for kind, count in sorted(found.items()))
