"""Reading a record's fields for a task, with errors that say which record, what was there and what was expected."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from distill_core.errors import DataError


def field_of(record: Mapping[str, Any], name: str, option: str, document: str) -> Any:
    """A field that must be there; ``option`` is the task's option that names it.

    Raises:
        DataError: it is missing.
    """
    if record.get(name) is None:
        raise DataError(
            f"document {document}: the task reads the field {name!r}, the record has {', '.join(sorted(record))}: name "
            f"the right one (task.{option}), and let the source keep it (`fields` of jsonl, hf-dataset and table)"
        )
    return record[name]


def class_of(label: Any, labels: Sequence[str], document: str) -> int:
    """The id of a label.

    Raises:
        DataError: it is none of ``labels``.

    >>> class_of("dog", ("cat", "dog"), "d")
    1
    """
    if isinstance(label, (str, int)) and str(label) in labels:
        return labels.index(str(label))
    near = difflib.get_close_matches(str(label), labels, 1)
    hint = f"; did you mean {near[0]!r}" if near else ""
    raise DataError(
        f"document {document}: the label {label!r} is none of the {len(labels)} of task.labels ({', '.join(labels[:5])}"
        f"{', ...' if len(labels) > 5 else ''}){hint}: add it there, or drop the record with a filter"
    )
