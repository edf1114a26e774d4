"""From a row of a table to a record: the named fields, checked."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from distill_core.errors import DataError
from distill_synthesis.options import FieldNames


def record_of(row: Mapping[str, Any], names: FieldNames, *, place: str, document: str) -> dict[str, Any]:
    """The record of a row.

    Args:
        row: field -> value.
        names: which fields are what.
        place: where the row stands, for messages (``train.jsonl:7``).
        document: id if no field is named for it.

    Raises:
        DataError: a field that is missing or of the wrong type.
    """
    record: dict[str, Any] = {}
    for form, field in names.wanted.items():
        value = _field(row, field, place)
        if form == "messages":
            _check_messages(value, field, place)
        elif not isinstance(value, str):
            raise DataError(
                f"{place}: field {field!r} must be a string, received {_typed(value)}: mend the row, or name another "
                f"field as `{form}`"
            )
        record[form] = value
    if names.keeps_text_if_there and isinstance(row.get("text"), str):
        record["text"] = row["text"]
    for field in names.fields:
        record[field] = _field(row, field, place)
    record["document"] = document if names.document is None else str(_field(row, names.document, place))
    if names.domain is not None:
        record["domain"] = str(_field(row, names.domain, place))
    return record


def _field(row: Mapping[str, Any], field: str, place: str) -> Any:
    if field not in row:
        near = difflib.get_close_matches(field, [str(name) for name in row], 1)
        hint = f"; did you mean {near[0]!r}" if near else ""
        names = ", ".join(repr(name) for name in row) or "none"
        raise DataError(
            f"{place}: no field {field!r}; the row has the fields {names}{hint}. Name the right one in the source's "
            "options (text, prompt and completion, or messages)"
        )
    return row[field]


def _check_messages(value: Any, field: str, place: str) -> None:
    if not isinstance(value, list) or not value:
        raise DataError(f"{place}: field {field!r} must be a list of {{role, content}}, received {_typed(value)}")
    for index, message in enumerate(value):
        if not isinstance(message, Mapping) or not all(isinstance(message.get(k), str) for k in ("role", "content")):
            raise DataError(
                f"{place}: {field}[{index}] must be {{role, content}} with two strings, received {_typed(message)}"
            )


def _typed(value: Any) -> str:
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= 60 else text[:57] + '...'}"
