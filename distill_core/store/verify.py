"""Checks every byte of a store."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from distill_core.errors import StoreError
from distill_core.store.keys import key_of
from distill_core.store.manifest import ShardRecord
from distill_core.store.reader import StoreReader, check_shard
from distill_core.store.shard import METADATA_KEY, ShardView, shard_schema


def verify_store(
    directory: str | Path, *, remove_damaged: bool = False, on_shard: Callable[[str], None] | None = None
) -> list[str]:
    """Check size, checksum, schema, keys and every row of every shard.

    Args:
        directory: the store; it may be unfinished.
        remove_damaged: delete damaged shards, so that the next capture of the same data captures those alone.
        on_shard: called with the name of each shard when it has been checked.

    Returns:
        One sentence per problem, naming the shard; empty: the store is sound.

    Raises:
        StoreError: the description of the store cannot be read.
    """
    reader = StoreReader(directory, checksums=False, unfinished=True)
    problems = []
    first = 0
    for record in reader.manifest.shards:
        path = reader.directory / record.name
        try:
            check_shard(path, record.sha256, record.n_bytes)
            _check_contents(reader, path, record, first)
        except StoreError as error:
            problems.append(str(error))
            if remove_damaged:
                path.unlink(missing_ok=True)
        first += record.n_sequences
        if on_shard is not None:
            on_shard(record.name)
    return problems


def _check_contents(reader: StoreReader, path: Path, record: ShardRecord, first: int) -> None:
    view = ShardView(path)
    described = (view.schema.metadata or {}).get(METADATA_KEY)
    if described != shard_schema(reader.meta).metadata[METADATA_KEY]:
        raise StoreError(f"{path}: the shard describes another store than store.json: it was copied from elsewhere")
    keys = record.sequence_keys()
    if view.n_sequences != record.n_sequences or len(keys) != record.n_sequences:
        raise StoreError(f"{path}: holds {view.n_sequences} sequences; {record.n_sequences} are recorded")
    n_rows = 0
    for row, key in enumerate(keys):
        if key_of(reader.tokens(first + row), layout=reader.meta.layout) != key:
            raise StoreError(f"{path}: the tokens of sequence {row} do not have the recorded key")
        for draw in range(reader.meta.draws):
            positions_N, rows = reader.decoded(first + row, draw=draw)
            if positions_N.size != len(rows) or bool((rows.ids >= reader.meta.vocabulary_size).any()):
                raise StoreError(f"{path}: the rows of sequence {row} do not fit its positions or the vocabulary")
            values = rows.logits if rows.logits is not None else rows.weights
            if values is None or bool(np.isnan(values).any()):
                raise StoreError(f"{path}: the rows of sequence {row} hold NaN")
        n_rows += len(rows)
    if n_rows != record.n_rows:
        raise StoreError(f"{path}: holds {n_rows} rows; {record.n_rows} are recorded")
