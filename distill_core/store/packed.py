"""Rows of one sequence as they lie in a shard, and as the words and the table that a device unpacks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from distill_core.store.columns import decode_rows
from distill_core.store.meta import StoreMeta
from distill_core.store.rows import RowArrays
from distill_core.store.shard import damaged

UNDECODABLE = (ValueError, IndexError, KeyError, OverflowError, MemoryError)
"""What decoding bytes that were not encoded here may raise."""

DEVICE_COLUMNS = ("counts", "ids", "ids_sorted", "values", "tail", "entropy")
"""Columns in the order of the table (csrc/kernels/unpack_rows.cuh)."""

TABLE_WIDTH = 16


@dataclass(frozen=True)
class PackedRows:
    """One stored sequence that is not decoded yet.

    Args:
        n_rows: stored rows.
        columns: payload of one draw by name, views on the mapped shard.
        entropy: the column of exact entropies, None where there is none.
        chosen: [N] which of the rows are asked for; None: all.
        path: the shard, for messages.
    """

    n_rows: int
    columns: Mapping[str, memoryview]
    entropy: memoryview | None
    chosen: NDArray[np.int64] | None
    path: Path

    def decode(self, meta: StoreMeta) -> RowArrays:
        """The rows asked for, decoded on the host, without label log-probabilities.

        Raises:
            StoreError: the bytes are damaged, naming the shard.
        """
        try:
            rows = decode_rows({**self.columns, "entropy": self.entropy, "label": None}, self.n_rows, meta, 0)
        except UNDECODABLE as error:
            raise damaged(self.path, f"a sequence cannot be decoded: {error}") from error
        return rows if self.chosen is None else rows[self.chosen]


def words_and_table(parts: Sequence[PackedRows]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """All bytes in one array of words, every column from a word of its own, and what lies where.

    Returns:
        words: [W] int64, the bytes in order; zeros fill the last word of a column.
        table: [S, 16] int64: first row, rows, first word of each of :data:`DEVICE_COLUMNS`, its bytes, two zeros.

    >>> words, table = words_and_table([PackedRows(1, {"counts": memoryview(b"abc")}, None, None, Path("x"))])
    >>> words.tobytes(), table[0, :3].tolist(), table[0, 8:10].tolist()
    (b'abc\\x00\\x00\\x00\\x00\\x00', [0, 1, 0], [3, 0])
    """
    table = np.zeros((len(parts), TABLE_WIDTH), dtype=np.int64)
    placed: list[tuple[int, memoryview]] = []
    n_words = n_rows = 0
    for line, part in zip(table, parts, strict=True):
        line[:2] = n_rows, part.n_rows
        n_rows += part.n_rows
        for number, name in enumerate(DEVICE_COLUMNS):
            blob = (part.entropy if name == "entropy" else part.columns.get(name)) or memoryview(b"")
            line[2 + number], line[2 + len(DEVICE_COLUMNS) + number] = n_words, len(blob)
            placed.append((8 * n_words, blob))
            n_words += (len(blob) + 7) // 8
    content = np.zeros(8 * n_words, dtype=np.uint8)
    for start, blob in placed:
        content[start : start + len(blob)] = np.frombuffer(blob, dtype=np.uint8)
    return content.view("<i8").astype(np.int64, copy=False), table
