"""What a store holds and what it costs."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from distill_core.store.meta import ENTROPY_STEP_NAT, LABEL_STEP_NAT, StoreMeta
from distill_core.store.reader import StoreReader
from distill_core.store.shard import ShardView


@dataclass(frozen=True)
class StoreInfo:
    """Figures of a store.

    Args:
        directory: where it lies.
        meta: its description.
        complete: whether the capture finished.
        n_shards, n_sequences, n_tokens, n_rows: counts; a row is a position with a stored distribution.
        n_bytes: every file of the directory.
        column_bytes: content of each column; draws of a sample are summed.
    """

    directory: str
    meta: StoreMeta
    complete: bool
    n_shards: int
    n_sequences: int
    n_tokens: int
    n_rows: int
    n_bytes: int
    column_bytes: dict[str, int] = field(default_factory=dict)

    @property
    def bytes_per_row(self) -> float:
        """All bytes of the directory over the stored rows: the cost of a token of teacher signal, everything in it."""
        return self.n_bytes / max(self.n_rows, 1)

    @property
    def split_per_row(self) -> dict[str, float]:
        """:attr:`bytes_per_row` by column; ``container`` is Arrow, keys, lengths and the manifest."""
        n_rows = max(self.n_rows, 1)
        split = {name: n_bytes / n_rows for name, n_bytes in self.column_bytes.items()}
        split["container"] = (self.n_bytes - sum(self.column_bytes.values())) / n_rows
        return split

    def to_json(self) -> dict[str, Any]:
        return {
            "directory": self.directory,
            "complete": self.complete,
            "meta": self.meta.to_json(),
            "n_shards": self.n_shards,
            "n_sequences": self.n_sequences,
            "n_tokens": self.n_tokens,
            "n_rows": self.n_rows,
            "n_bytes": self.n_bytes,
            "bytes_per_row": self.bytes_per_row,
            "split_per_row": self.split_per_row,
            "entropy_error_nat": ENTROPY_STEP_NAT / 2,
            "label_error_nat": LABEL_STEP_NAT / 2,
        }


def store_info(directory: str | Path) -> StoreInfo:
    """Count what a store holds.

    Raises:
        StoreError: not a store, or a shard cannot be opened.

    >>> import tempfile, numpy as np
    >>> from distill_core.store import RowArrays, StoreWriter
    >>> meta = StoreMeta(vocabulary_size=5, tokenizer_fingerprint="f", teacher="t", method="topk", k=1)
    >>> rows = RowArrays(kind="exact", ids=np.array([[3]]), temperatures=(1.0,), logits=np.log([[0.9]]),
    ...                  tail=np.log([[0.1]]))
    >>> with StoreWriter(tempfile.mkdtemp(), meta) as writer:
    ...     _ = writer.append([4, 3], [0], rows)
    >>> store_info(writer.directory).n_rows
    1
    """
    reader = StoreReader(directory, checksums=False, unfinished=True)
    found = reader.manifest
    column_bytes: dict[str, int] = {}
    for record in found.shards:
        for batch in ShardView(reader.directory / record.name).batches:
            for number, described in enumerate(batch.schema):
                if pa.types.is_binary(described.type) and described.name != "key":
                    name = described.name.split(".")[0]
                    column_bytes[name] = column_bytes.get(name, 0) + _content_bytes(batch.column(number))
    return StoreInfo(
        directory=str(directory),
        meta=found.meta,
        complete=found.complete,
        n_shards=len(found.shards),
        n_sequences=found.n_sequences,
        n_tokens=found.n_tokens,
        n_rows=found.n_rows,
        n_bytes=sum(path.stat().st_size for path in reader.directory.iterdir() if path.is_file()),
        column_bytes={name: n_bytes for name, n_bytes in column_bytes.items() if n_bytes},
    )


def _content_bytes(column: pa.Array) -> int:
    """Bytes of the values of a binary column, by its offsets."""
    offsets = memoryview(column.buffers()[1]).cast("i")
    return int(offsets[column.offset + len(column)] - offsets[column.offset])
