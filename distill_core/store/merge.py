"""Joins stores of one teacher: sequences in order, each once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from distill_core.errors import StoreError
from distill_core.store.manifest import exists
from distill_core.store.reader import StoreReader
from distill_core.store.writer import StoreWriter


def merge_stores(sources: Sequence[str | Path], directory: str | Path, *, shard_sequences: int | None = None) -> int:
    """Write the sequences of several stores into one; a sequence stored twice is kept from the first.

    The encoded bytes are copied, nothing is decoded or rounded again.

    Args:
        sources: finished stores with equal meta.
        directory: a new or empty directory; an interrupted merge resumes.
        shard_sequences: default: that of the first source.

    Returns:
        Number of sequences written.

    Raises:
        StoreError: metas differ (saying how), a source is damaged or unfinished, or the target is one of the sources.
    """
    if not sources:
        raise ValueError("sources is empty; expected at least one store")
    readers = [StoreReader(source) for source in sources]
    target = Path(directory)
    if any(target.resolve() == reader.directory.resolve() for reader in readers):
        raise StoreError(f"{target}: is one of the stores to merge: choose a new directory")
    for reader in readers[1:]:
        differences = readers[0].meta.differences(reader.meta)
        if differences:
            raise StoreError(
                f"{readers[0].directory} and {reader.directory} cannot be merged: {'; '.join(differences)}. "
                "Only stores of one teacher, vocabulary and method can: train on them as two teachers instead"
            )
    if not exists(target) and target.is_dir() and any(target.iterdir()):
        raise StoreError(f"{target}: is not empty: choose a new directory")
    size = readers[0].manifest.shard_sequences if shard_sequences is None else shard_sequences
    with StoreWriter(target, readers[0].meta, shard_sequences=size) as writer:
        for reader in readers:
            for index in range(len(reader)):
                writer.append_encoded(reader.encoded(index))
    return writer.completed_sequences
