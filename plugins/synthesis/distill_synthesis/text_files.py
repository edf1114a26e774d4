"""The ``text-files`` source: a document per file, or per line."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from distill_core.errors import DataError
from distill_synthesis.content import file_hash
from distill_synthesis.file_search import find_files
from distill_synthesis.options import TextFilesOptions


class TextFiles:
    """Yields ``text`` and ``document`` for each file, in the order of their names.

    >>> import tempfile
    >>> directory = Path(tempfile.mkdtemp())
    >>> for year in (1999, 2001):
    ...     _ = (directory / f"{year}-a.txt").write_text(f"In {year}.")
    >>> source = TextFiles(TextFilesOptions(paths=str(directory / "*.txt"), number={"max": 2000}))
    >>> [record["text"] for record in source.records()]
    ['In 1999.']
    """

    def __init__(self, options: TextFilesOptions) -> None:
        self.options = options

    def files(self) -> list[tuple[str, Path]]:
        """(document id, path) of every file read."""
        return find_files(self.options)

    def records(self) -> Iterator[dict[str, Any]]:
        for document, path in self.files():
            text = self._read(path)
            if self.options.documents == "file":
                yield {"text": text, "document": document}
                continue
            for number, line in enumerate(text.splitlines(), 1):
                if line.strip():
                    yield {"text": line, "document": f"{document}:{number}"}

    def _read(self, path: Path) -> str:
        content = path.read_bytes()
        try:
            text = content.decode(self.options.encoding)
        except UnicodeDecodeError as error:
            raise DataError(
                f"{path}: byte {content[error.start]:#04x} at offset {error.start} is no {self.options.encoding} "
                f"({error.reason}): give the file's `encoding`, or exclude it"
            ) from None
        if "\0" in text:
            raise DataError(
                f"{path}: a NUL at offset {content.find(0)}: this is a binary file, not text; exclude it or name "
                "its `encoding`"
            )
        return text.removeprefix("\ufeff").replace("\r\n", "\n")

    def fingerprint(self) -> str:
        """Hash of names and contents of all files; where they lie plays no part."""
        state = hashlib.sha256()
        for name, content in sorted((path.name, file_hash(path)) for _, path in self.files()):
            state.update(f"{name}\0{content}\n".encode())
        return state.hexdigest()
