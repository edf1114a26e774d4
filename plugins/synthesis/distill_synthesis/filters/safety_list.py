"""The ``safety-list`` filter: records without the words of a list."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distill_core.errors import DataError
from distill_synthesis.filters.options import SafetyListOptions
from distill_synthesis.filters.record_text import text_of
from distill_synthesis.filters.words import words

Entries = dict[tuple[str, ...], int]
"""Words of an entry -> its line in the file, from 1."""


class SafetyList:
    """Drops a record in which a word or phrase of a file stands.

    Whole words, case folded, as :func:`distill_synthesis.filters.words.words` finds them: invisible characters between
    letters do not hide a word. The reason gives the entry's line in the file, not the entry, and examples in the report
    do not show the text. No list comes with the plugin.

    Raises:
        DataError: the file cannot be read or has no entry.
    """

    private = True

    def __init__(self, options: SafetyListOptions) -> None:
        self.options = options
        self.entries = read_entries(Path(options.file).expanduser())
        self.lengths = sorted({len(entry) for entry in self.entries})

    def verdict(self, record: Mapping[str, Any]) -> str | None:
        text = words(text_of(record, self.options.part))
        found: Counter[int] = Counter()
        for length in self.lengths:
            for i in range(len(text) - length + 1):
                line = self.entries.get(tuple(text[i : i + length]))
                if line is not None:
                    found[line] += 1
        if found.total() <= self.options.allowed:
            return None
        return "listed: " + ", ".join(f"line {line} ({count} times)" for line, count in sorted(found.items()))


def read_entries(path: Path) -> Entries:
    """The entries of a file; of equal ones the first counts.

    Raises:
        DataError: no such file, no UTF-8, a line without any word, or no entry at all.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"the word list {path} cannot be read: {error}; give a UTF-8 text file") from None
    entries: Entries = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.startswith("#"):
            continue
        entry = tuple(words(line))
        if not entry:
            raise DataError(f"{path}:{number}: {line.strip()[:40]!r} holds no letter or digit, so no word can be equal")
        entries.setdefault(entry, number)
    if not entries:
        raise DataError(f"the word list {path} has no entry: write a word or phrase a line")
    return entries
