"""The ``jsonl`` source: one JSON object a line."""

from __future__ import annotations

import gzip
import hashlib
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from distill_core.errors import DataError
from distill_synthesis.content import file_hash
from distill_synthesis.file_search import matching
from distill_synthesis.options import JsonLinesOptions
from distill_synthesis.rows import record_of

_NO_TEXT = b"\x00\x01\x02\x03\x04\x05\x06\x07\x08\x0e\x0f"
"""Control bytes that JSON text never holds unescaped."""


class JsonLines:
    """Yields a record for each row, in order; every defect names file and line.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "a.jsonl"
    >>> _ = path.write_text('{"question": "2 + 2?", "answer": "4"}')
    >>> options = JsonLinesOptions(path=str(path), prompt="question", completion="answer")
    >>> next(JsonLines(options).records())
    {'prompt': '2 + 2?', 'completion': '4', 'document': 'a.jsonl:1'}
    """

    def __init__(self, options: JsonLinesOptions) -> None:
        self.options = options

    def files(self) -> list[Path]:
        return files_of(self.options)

    def records(self) -> Iterator[dict[str, Any]]:
        for path in self.files():
            yield from read_records(path, self.options)

    def fingerprint(self) -> str:
        """Hash of names and contents of all files; where they lie plays no part."""
        state = hashlib.sha256()
        for path in self.files():
            state.update(f"{path.name}\0{file_hash(path)}\n".encode())
        return state.hexdigest()


def files_of(options: JsonLinesOptions) -> list[Path]:
    """The files, in the order given; globs sorted."""
    found: dict[str, Path] = {}
    for index, pattern in enumerate(options.path):
        if Path(pattern).expanduser().is_dir():
            raise DataError(
                f"path[{index}]: {pattern} is a directory; name a file, or a glob such as {pattern}/*.jsonl"
            )
        try:
            found.update(sorted(matching([pattern]).items()))
        except DataError:
            raise DataError(
                f"path[{index}]: no file matches {pattern}; paths start from the present directory"
            ) from None
    return list(found.values())


def read_records(path: Path, options: JsonLinesOptions) -> Iterator[dict[str, Any]]:
    """Records of one file.

    Raises:
        DataError: an empty file, a line that is no JSON object, binary content, a wrong field.
    """
    empty = True
    for number, line in _lines(path):
        place = f"{path}:{number}"
        if not line.strip():
            continue
        empty = False
        yield record_of(_parsed(line, place), options, place=place, document=f"{path.name}:{number}")
    if empty:
        raise DataError(f"{path}: the file holds no rows; expected one JSON object a line")


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    number = 0
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else open(path, "rb") as file:
            for number, line in enumerate(file, 1):
                yield number, line
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path}: the compressed file breaks off or is damaged after line {number} ({error})") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from None


def _parsed(line: bytes, place: str) -> dict[str, Any]:
    binary = next((byte for byte in line if byte in _NO_TEXT), None)
    if binary is not None:
        raise DataError(f"{place}: byte {binary:#04x}: this is a binary file, expected JSON lines (UTF-8 text)")
    try:
        value = json.loads(line.decode("utf-8-sig" if place.endswith(":1") else "utf-8"))
    except UnicodeDecodeError as error:
        raise DataError(
            f"{place}: byte {line[error.start]:#04x} at offset {error.start} of the line is no UTF-8; expected JSON "
            "lines: convert the file"
        ) from None
    except json.JSONDecodeError as error:
        cut = "" if line.endswith(b"\n") else " The line has no end: the file may be truncated."
        raise DataError(f"{place}: no JSON: {error.msg.removesuffix(' at')} at column {error.colno}.{cut}") from None
    except RecursionError:
        raise DataError(f"{place}: the JSON is nested too deeply") from None
    if not isinstance(value, dict):
        raise DataError(
            f"{place}: expected a JSON object with fields, received {type(value).__name__} {str(value)[:60]}"
        )
    return value


def first_row_problems(options: JsonLinesOptions) -> list[str]:
    """What is wrong with the files, as far as their first rows tell."""
    problems = []
    try:
        files = files_of(options)
    except DataError as error:
        return [str(error)]
    for path in files:
        try:
            next(read_records(path, options))
        except DataError as error:
            problems.append(f"path: {error}")
    return problems
