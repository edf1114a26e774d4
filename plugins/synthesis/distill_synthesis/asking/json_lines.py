"""A file of JSON lines that a killed process may have left with a torn last line."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from distill_core.errors import DataError


def whole_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a file, none if it is not there; a last line without its end is cut off.

    Raises:
        DataError: a line before the end is no JSON object.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "rows.jsonl"
    >>> _ = path.write_bytes(b'{"a": 1}' + bytes([10]) + b'{"a": ')
    >>> whole_lines(path), path.stat().st_size
    ([{'a': 1}], 9)
    """
    if not path.is_file():
        return []
    content = path.read_bytes()
    end = content.rfind(b"\n") + 1
    found = []
    for number, line in enumerate(content[:end].split(b"\n")[:-1], start=1):
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if not isinstance(row, dict):
            raise DataError(
                f"{path}, line {number}: no JSON object: the file is damaged; delete it, and the teacher writes anew"
            )
        found.append(row)
    if end < len(content):
        os.truncate(path, end)
    return found
