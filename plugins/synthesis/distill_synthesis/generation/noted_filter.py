"""A filter whose refusals are written down."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any


class NotedFilter:
    """Judges as another filter does, and tells of every record that is refused.

    Args:
        judge: the filter.
        name: its registered name.
        before: filters that the record has passed.
        note: called with name, record and reason; the text is left out where the filter keeps it private.
    """

    def __init__(
        self, judge: Any, name: str, before: Sequence[str], note: Callable[[str, Mapping[str, Any], str], None]
    ) -> None:
        self.judge, self.name, self.before, self.note = judge, name, list(before), note
        self.private = bool(getattr(judge, "private", False))
        self.batch_records = int(getattr(judge, "batch_records", 1)) if hasattr(judge, "verdicts") else 1

    def verdict(self, record: Mapping[str, Any]) -> str | None:
        return self.verdicts([record])[0]

    def verdicts(self, records: Sequence[Mapping[str, Any]]) -> list[str | None]:
        batched = hasattr(self.judge, "verdicts")
        found = list(self.judge.verdicts(records)) if batched else [self.judge.verdict(record) for record in records]
        for record, reason in zip(records, found, strict=False):  # the chain checks their number
            if reason is not None:
                shown = {"document": record["document"]} if self.private else dict(record)
                shown["provenance"] = {**record["provenance"], "filters": self.before}
                self.note(self.name, shown, reason)
        return found
