"""The right answer of a record."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from distill_core.errors import DataError


def reference(record: Mapping[str, Any], field: str, checker: str) -> str:
    """Raises ``DataError`` where the record has none."""
    value = record.get(field)
    if isinstance(value, bool) or not isinstance(value, str | int | float) or not str(value).strip():
        raise DataError(
            f"checker {checker}: document {record.get('document', '?')} has no answer in the field {field!r} "
            f"(received {value!r}; its fields: {', '.join(sorted(record))}): name the field with `field`, or take a "
            "checker that needs none"
        )
    return str(value)
