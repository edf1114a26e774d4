"""A shard: an Arrow IPC file with one row per sequence.

Memory-mapped and random access; ``datasets`` and any Arrow reader open it. The schema's metadata describes the store.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from distill_core.errors import DistillError, StoreError
from distill_core.files import atomic_file
from distill_core.store.columns import OPTIONAL_COLUMNS, payload_columns
from distill_core.store.meta import StoreMeta

METADATA_KEY = b"distill_core.store"

_BATCH_BYTES = 1 << 30
"""Payload of one record batch at most, so that 32-bit offsets of binary columns suffice."""


@dataclass(frozen=True)
class StoredSequence:
    """One encoded sequence, ready for a shard.

    Args:
        key: 16 bytes.
        n_tokens: its length.
        n_rows: positions with a row.
        revision: the teacher's revision where it is not the store's; else None.
        columns: binary columns by name, None for an optional one that is absent.
    """

    key: bytes
    n_tokens: int
    n_rows: int
    revision: str | None
    columns: dict[str, bytes | None]

    @property
    def n_bytes(self) -> int:
        return sum(len(blob) for blob in self.columns.values() if blob is not None)


def shard_name(index: int) -> str:
    return f"shard-{index:05d}.arrow"


def shard_schema(meta: StoreMeta) -> pa.Schema:
    """Schema with the description of the store in its metadata."""
    fixed = [
        pa.field("key", pa.binary(), nullable=False),
        pa.field("n_tokens", pa.uint32(), nullable=False),
        pa.field("n_rows", pa.uint32(), nullable=False),
        pa.field("revision", pa.string()),
        pa.field("tokens", pa.binary(), nullable=False),
        pa.field("positions", pa.binary(), nullable=False),
    ]
    payload = [pa.field(name, pa.binary(), nullable=False) for name in payload_columns(meta)]
    optional = [pa.field(name, pa.binary()) for name in OPTIONAL_COLUMNS]
    description = json.dumps(meta.to_json(), sort_keys=True, separators=(",", ":")).encode("utf-8")
    return pa.schema(fixed + payload + optional, metadata={METADATA_KEY: description})


def write_shard(path: Path, sequences: Sequence[StoredSequence], meta: StoreMeta) -> tuple[str, int]:
    """Write a shard atomically.

    Returns:
        sha256 in hexadecimal, and the size in bytes.
    """
    schema = shard_schema(meta)
    with atomic_file(path) as file:
        hashing = _HashingSink(file)
        with pa.ipc.new_file(pa.PythonFile(hashing, mode="w"), schema) as writer:
            for batch in _batches(sequences):
                writer.write_batch(_record_batch(batch, schema))
        return hashing.digest.hexdigest(), hashing.n_bytes


class _HashingSink:
    """A binary file that hashes what passes through."""

    closed = False

    def __init__(self, file: Any) -> None:
        self._file = file
        self.digest = hashlib.sha256()
        self.n_bytes = 0

    def write(self, data: Any) -> int:
        content = bytes(data)
        self.digest.update(content)
        self.n_bytes += len(content)
        self._file.write(content)
        return len(content)

    def tell(self) -> int:
        return self.n_bytes

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> None:
        self.flush()


def _batches(sequences: Sequence[StoredSequence]) -> list[list[StoredSequence]]:
    batches: list[list[StoredSequence]] = []
    size = _BATCH_BYTES
    for sequence in sequences:
        if size + sequence.n_bytes > _BATCH_BYTES:
            batches.append([])
            size = 0
        batches[-1].append(sequence)
        size += sequence.n_bytes
    return batches


def _record_batch(sequences: Sequence[StoredSequence], schema: pa.Schema) -> pa.RecordBatch:
    arrays = []
    for field in schema:
        if field.name in ("key", "n_tokens", "n_rows", "revision"):
            values: list[Any] = [getattr(sequence, field.name) for sequence in sequences]
        else:
            values = [sequence.columns[field.name] for sequence in sequences]
        arrays.append(pa.array(values, type=field.type))
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def damaged(path: Path, reason: str) -> StoreError:
    """The error for a shard that cannot be trusted, with what to do."""
    return StoreError(
        f"{path}: the shard is damaged ({reason}). Run `distill store verify {path.parent}` to see every damaged "
        f"shard; to mend one, delete {path.name} and run the capture again: it captures that shard alone"
    )


class ShardView:
    """A memory-mapped shard."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._source = pa.memory_map(str(path), "r")
            self._reader = pa.ipc.open_file(self._source)
            self.batches = [self._reader.get_batch(index) for index in range(self._reader.num_record_batches)]
            for batch in self.batches:
                batch.validate(full=True)  # offsets inside the file, whatever the bytes say
        except (OSError, pa.ArrowException) as error:
            raise damaged(path, str(error).splitlines()[0]) from error
        self.n_sequences = sum(batch.num_rows for batch in self.batches)

    def require_columns(self, meta: StoreMeta) -> None:
        """Refuse a shard whose columns are not those of the store.

        Raises:
            StoreError: naming the shard.
        """
        if not self.schema.equals(shard_schema(meta), check_metadata=False):
            raise damaged(self.path, "its columns are not those of the store")

    @property
    def schema(self) -> pa.Schema:
        return self._reader.schema

    def sequence(self, index: int) -> tuple[int, int, dict[str, memoryview | None]]:
        """Length in tokens, number of rows and columns of one sequence (views on the mapped file)."""
        batch, row = self._locate(index)
        columns: dict[str, memoryview | None] = {}
        for number, field in enumerate(batch.schema):
            if pa.types.is_binary(field.type):
                value = batch.column(number)[row]
                columns[field.name] = memoryview(value.as_buffer()).cast("B") if value.is_valid else None
        n_tokens, n_rows = batch.column("n_tokens")[row].as_py(), batch.column("n_rows")[row].as_py()
        if n_tokens is None or n_rows is None:
            raise damaged(self.path, f"sequence {index} has no length")
        return int(n_tokens), int(n_rows), columns

    def revision(self, index: int) -> str | None:
        batch, row = self._locate(index)
        value = batch.column("revision")[row].as_py()
        return None if value is None else str(value)

    def _locate(self, index: int) -> tuple[pa.RecordBatch, int]:
        for batch in self.batches:
            if index < batch.num_rows:
                return batch, index
            index -= batch.num_rows
        raise damaged(self.path, f"it has {self.n_sequences} sequences, fewer than recorded")


def file_sha256(path: Path) -> str:
    """sha256 of a file, in hexadecimal.

    Raises:
        DistillError: the file cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
        return digest.hexdigest()
    except OSError as error:
        raise DistillError(f"{path}: cannot be read ({error.strerror})") from error
