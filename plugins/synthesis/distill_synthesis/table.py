"""The ``table`` source: CSV, TSV and JSON tables, from paths or from an installed package."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import re
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from distill_core.errors import DataError
from distill_synthesis.content import file_hash
from distill_synthesis.file_search import matching, package_directory
from distill_synthesis.options import Column, TableOptions


class Table:
    """Yields a record for each row, its fields taken from columns.

    A ``.json`` table is a list of rows, or a mapping whose rows are the key followed by the value (or values). Fields
    made of several columns are lists; whole numbers in them are read as such.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "a.csv"
    >>> _ = path.write_text("0,7,8,cat")
    >>> options = TableOptions(path=str(path), header=False, fields={"image": "0:3", "label": 3})
    >>> next(Table(options).records())
    {'image': [0, 7, 8], 'label': 'cat', 'document': 'a.csv:1'}
    """

    def __init__(self, options: TableOptions) -> None:
        self.options = options

    @cached_property
    def files(self) -> list[Path]:
        root = None if self.options.package is None else package_directory(self.options.package)
        return sorted(matching(self.options.path, root).values())

    def records(self) -> Iterator[dict[str, Any]]:
        """Records of the chosen part, in order.

        Raises:
            DataError: a file that is no table, a column that is not there, a row without a class.
        """
        for path in self.files:
            for number, row in enumerate(_rows(path, self.options), 1):
                record = self._record(row, path, number)
                if record is not None and self._chosen(record["document"]):
                    yield record

    def _record(self, row: _Row, path: Path, number: int) -> dict[str, Any] | None:
        place, options = f"{path.name}:{number}", self.options
        if any(str(row.value(column, place)) != wanted for column, wanted in options.only.items()):
            return None
        record = {name: row.value(column, place) for name, column in options.fields.items()}
        if options.classes is not None:
            value = str(row.value(options.classes.column, place))
            found = next((name for name, rule in options.classes.patterns.items() if re.match(rule, value)), None)
            if found is None:
                raise DataError(
                    f"{path}, row {number}: {value!r} matches none of classes.patterns: add a pattern for it"
                )
            record[options.classes.field] = found
        document = place if options.document is None else str(row.value(options.document, place))
        return {**record, "document": document[: options.document_characters]}

    def _chosen(self, document: str) -> bool:
        """Documents are dealt to the parts by a hash of their id, so all rows of one land in the same part."""
        if self.options.part == "all":
            return True
        digest = hashlib.blake2b(document.encode(), digest_size=8).digest()
        held_out = int.from_bytes(digest, "big") < self.options.eval_share * 2**64
        return held_out == (self.options.part == "eval")

    def fingerprint(self) -> str:
        """Hash of names and contents of all files; where they lie plays no part."""
        state = hashlib.sha256()
        for path in self.files:
            state.update(f"{path.name}\0{file_hash(path)}\n".encode())
        return state.hexdigest()


class _Row:
    """The values of a row, by position and, where the table names its columns, by name."""

    def __init__(self, values: Sequence[Any], names: dict[str, int]) -> None:
        self.values, self.names = values, names

    def value(self, column: Column, place: str) -> Any:
        if isinstance(column, str) and (range_ := re.fullmatch(r"(\d+):(\d+)", column)):
            start, stop = int(range_[1]), int(range_[2])
            if stop > len(self.values):
                raise DataError(f"{place}: the row has {len(self.values)} columns, {column} was asked for")
            return [_number(value) for value in self.values[start:stop]]
        index = self.names.get(column) if isinstance(column, str) else column
        if index is None or index >= len(self.values):
            known = ", ".join(self.names) or f"0 .. {len(self.values) - 1}"
            raise DataError(f"{place}: there is no column {column!r}; the table has {known}")
        return self.values[index]


def _number(value: Any) -> Any:
    return int(value) if isinstance(value, str) and re.fullmatch(r"-?\d+", value) else value


def _rows(path: Path, options: TableOptions) -> Iterator[_Row]:
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        text = content.decode("utf-8-sig")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as UTF-8 text: {error}") from None
    kind = Path(path.stem).suffix if path.suffix == ".gz" else path.suffix
    if kind == ".json":
        yield from _json_rows(text, path)
        return
    delimiter = options.delimiter or ("\t" if kind == ".tsv" else ",")
    reader = csv.reader(io.StringIO(text), delimiter=delimiter)
    names: dict[str, int] = {}
    if options.header:
        names = {name: index for index, name in enumerate(next(reader, []))}
    for values in reader:
        if values:
            yield _Row(values, names)


def _json_rows(text: str, path: Path) -> Iterator[_Row]:
    try:
        table = json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"{path}: no JSON: {error}") from None
    if isinstance(table, dict):
        table = [[key, *(value if isinstance(value, list) else [value])] for key, value in table.items()]
    if not isinstance(table, list) or not all(isinstance(row, list) for row in table):
        raise DataError(f"{path}: expected a list of rows, or a mapping of keys to rows")
    for row in table:
        yield _Row(row, {})
