"""Writes a store, shard by shard; the same appends give the same bytes, however often the writing was interrupted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType

from numpy.typing import ArrayLike

from distill_core.errors import DistillError, StoreError
from distill_core.files import remove_temporaries
from distill_core.store import manifest
from distill_core.store.checks import check_rows
from distill_core.store.columns import encode_positions, encode_rows, encode_tokens, position_array
from distill_core.store.keys import key_of, token_array
from distill_core.store.lock import StoreLock
from distill_core.store.manifest import Manifest, ShardRecord
from distill_core.store.meta import StoreMeta
from distill_core.store.rows import RowArrays
from distill_core.store.shard import StoredSequence, shard_name, write_shard


class StoreWriter:
    """Appends sequences to a store in ``directory``; resumes what is there.

    Every ``shard_sequences`` new sequences become a shard (temporary name, fsync, rename). After an interruption, open
    the same directory with the same meta and append again in the same order: sequences of whole shards are ``done``
    and skipped, the finished directory is byte for byte that of an uninterrupted run. A shard whose file is missing or
    cut short is filled again by appending its sequences; the others stay.

    Args:
        directory: made if missing.
        meta: what the store says about itself.
        shard_sequences: sequences per shard, at least 1; what an interruption loses at most.

    Raises:
        StoreError: the directory holds a store of other meta (says what differs), or another process writes to it.
        DistillError: the directory cannot be made or holds other files.

    >>> import tempfile, numpy as np
    >>> meta = StoreMeta(vocabulary_size=5, tokenizer_fingerprint="f", teacher="t", method="topk", k=1)
    >>> rows = RowArrays(kind="exact", ids=np.array([[3]]), temperatures=(1.0,), logits=np.log([[0.9]]),
    ...                  tail=np.log([[0.1]]))
    >>> with StoreWriter(tempfile.mkdtemp(), meta, shard_sequences=2) as writer:
    ...     writer.append([4, 3], [0], rows)
    True
    """

    def __init__(self, directory: str | Path, meta: StoreMeta, *, shard_sequences: int = 64) -> None:
        if shard_sequences < 1:
            raise ValueError(f"shard_sequences is {shard_sequences}; expected at least 1")
        self.directory = Path(directory)
        self.meta = meta
        self.shard_sequences = shard_sequences
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DistillError(f"{self.directory}: cannot be made ({error.strerror})") from error
        self._lock = StoreLock(self.directory)
        try:
            self._manifest = self._open()
        except BaseException:
            self._lock.release()
            raise
        self._gaps = {
            index: _Gap(shard.sequence_keys())
            for index, shard in enumerate(self._manifest.shards)
            if not _has_size(self.directory / shard.name, shard.n_bytes)
        }
        self._gap_of = {key: index for index, gap in self._gaps.items() for key in gap.keys}
        recorded = {key for shard in self._manifest.shards for key in shard.sequence_keys()}
        self._done = recorded - self._gap_of.keys()
        if self._gaps:
            self._reopen()
        self._pending: list[StoredSequence] = []
        self._pending_keys: set[bytes] = set()
        self._closed = False

    @property
    def completed_sequences(self) -> int:
        """Sequences in whole shards."""
        return len(self._done)

    def done(self, key: bytes) -> bool:
        """Whether the sequence of this key lies in a whole shard: nothing to capture for it."""
        return key in self._done

    def append(
        self,
        input_ids: ArrayLike,
        positions: ArrayLike,
        rows: RowArrays | Sequence[RowArrays],
        *,
        revision: str | None = None,
    ) -> bool:
        """Add one sequence.

        Args:
            input_ids: [T] token ids from position 0, without padding.
            positions: [N] rising positions t whose prediction of token t + 1 the rows hold.
            rows: N rows; for a store of several draws a sequence of ``meta.draws`` samples.
            revision: the teacher's revision for this sequence, where it is not the store's.

        Returns:
            Whether it was added; False: the same tokens are stored already (nothing is written twice).

        Raises:
            ValueError, TypeError: rows, positions or ids do not fit, saying how.
        """
        self._require_open()
        ids_T = token_array(input_ids)
        key = key_of(ids_T, layout=self.meta.layout)
        if self._known(key):
            return False
        positions_N = position_array(positions, ids_T.size)
        draws = [rows] if isinstance(rows, RowArrays) else list(rows)
        if len(draws) != self.meta.draws:
            raise ValueError(f"rows holds {len(draws)} samples; the store was made for draws = {self.meta.draws}")
        for sample in draws:
            check_rows(sample, self.meta, positions_N.size)
        columns = encode_rows(draws, self.meta)
        columns["tokens"] = encode_tokens(ids_T, self.meta)
        columns["positions"] = encode_positions(positions_N, ids_T.size)
        self._add(StoredSequence(key, int(ids_T.size), int(positions_N.size), revision, columns))
        return True

    def append_encoded(self, sequence: StoredSequence) -> bool:
        """Add a sequence as another store of equal meta holds it; returns as :meth:`append` does."""
        self._require_open()
        if self._known(sequence.key):
            return False
        self._add(sequence)
        return True

    def finish(self) -> None:
        """Write the last, shorter shard, mark the store complete and give the lock back."""
        self._require_open()
        if self._pending:
            self._write_pending()
        for index, gap in self._gaps.items():
            raise StoreError(
                f"{self.directory / self._manifest.shards[index].name}: the shard is missing, and {gap.n_missing} of "
                "its sequences were not captured again: run the capture with the data it was made from"
            )
        if not self._manifest.complete:
            self._manifest = replace(self._manifest, complete=True)
            manifest.write_description(self.directory, self._manifest)
        self.close()

    def close(self) -> None:
        """Stop without finishing: the unfinished shard is lost, whole ones stay. Does nothing after ``finish``."""
        if not self._closed:
            self._closed = True
            self._pending.clear()
            self._lock.release()

    def __enter__(self) -> StoreWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Finish after a clean block; only close after an error."""
        if kind is None and not self._closed:
            self.finish()
        self.close()

    def _require_open(self) -> None:
        if self._closed:
            raise ValueError(f"the writer of {self.directory} is closed: open a new StoreWriter to go on")

    def _write_pending(self) -> None:
        self._reopen()
        record = self._write_shard(shard_name(len(self._manifest.shards)), self._pending)
        manifest.append_shard(self.directory, record)
        self._manifest = replace(self._manifest, shards=(*self._manifest.shards, record))
        self._done |= self._pending_keys
        self._pending.clear()
        self._pending_keys.clear()

    def _write_shard(self, name: str, sequences: Sequence[StoredSequence]) -> ShardRecord:
        sha256, n_bytes = write_shard(self.directory / name, sequences, self.meta)
        return ShardRecord(
            name=name,
            sha256=sha256,
            n_bytes=n_bytes,
            n_sequences=len(sequences),
            n_tokens=sum(sequence.n_tokens for sequence in sequences),
            n_rows=sum(sequence.n_rows for sequence in sequences),
            keys="".join(sequence.key.hex() for sequence in sequences),
        )

    def _known(self, key: bytes) -> bool:
        return key in self._done or key in self._pending_keys

    def _add(self, sequence: StoredSequence) -> None:
        index = self._gap_of.get(sequence.key)
        if index is not None:
            self._gaps[index].fill(sequence)
            self._pending_keys.add(sequence.key)
            if self._gaps[index].n_missing == 0:
                self._close_gap(index)
            return
        self._pending.append(sequence)
        self._pending_keys.add(sequence.key)
        if len(self._pending) == self.shard_sequences:
            self._write_pending()

    def _close_gap(self, index: int) -> None:
        """Write a missing shard again, under its name; the same teacher gives the same bytes."""
        self._reopen()
        sequences = self._gaps.pop(index).sequences()
        record = self._write_shard(self._manifest.shards[index].name, sequences)
        if record != self._manifest.shards[index]:
            shards = list(self._manifest.shards)
            shards[index] = record
            self._manifest = replace(self._manifest, shards=tuple(shards))
            manifest.rewrite_shards(self.directory, self._manifest.shards)
        for sequence in sequences:
            del self._gap_of[sequence.key]
            self._pending_keys.discard(sequence.key)
            self._done.add(sequence.key)

    def _reopen(self) -> None:
        """A finished store that grows or is mended is not complete until finished again."""
        if self._manifest.complete:
            self._manifest = replace(self._manifest, complete=False)
            manifest.write_description(self.directory, self._manifest)

    def _open(self) -> Manifest:
        """The state to go on from; what a killed writer left behind is removed."""
        remove_temporaries(self.directory)
        if not manifest.exists(self.directory):
            strangers = sorted(path.name for path in self.directory.glob("shard-*.arrow"))
            if strangers:
                raise StoreError(f"{self.directory}: holds {strangers[0]} but no {manifest.DESCRIPTION}: not a store")
            fresh = Manifest(self.meta, self.shard_sequences, False, ())
            manifest.write_description(self.directory, fresh)
            return fresh
        found = manifest.read_manifest(self.directory)
        differences = found.meta.differences(self.meta)
        if found.shard_sequences != self.shard_sequences:
            differences.append(f"shard_sequences: {found.shard_sequences} against {self.shard_sequences}")
        if differences:
            raise StoreError(
                f"{self.directory}: the store there was captured otherwise (there against asked): "
                + "; ".join(differences)
                + ". Capture into another directory, or delete this one"
            )
        return self._drop_unrecorded(found)

    def _drop_unrecorded(self, found: Manifest) -> Manifest:
        recorded = {shard.name for shard in found.shards}
        for path in self.directory.glob("shard-*.arrow"):
            if path.name not in recorded:
                path.unlink()
        if not found.complete:
            manifest.rewrite_shards(self.directory, found.shards)
        return found


class _Gap:
    """A recorded shard whose file is gone: its sequences in order, as far as they were appended again."""

    def __init__(self, keys: list[bytes]) -> None:
        self.keys = keys
        self._found: dict[bytes, StoredSequence] = {}

    @property
    def n_missing(self) -> int:
        return len(self.keys) - len(self._found)

    def fill(self, sequence: StoredSequence) -> None:
        self._found[sequence.key] = sequence

    def sequences(self) -> list[StoredSequence]:
        return [self._found[key] for key in self.keys]


def _has_size(path: Path, n_bytes: int) -> bool:
    return path.is_file() and path.stat().st_size == n_bytes
