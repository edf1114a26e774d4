"""Reads a store: rows of a stored sequence, or of any prefix of one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from distill_core.errors import StoreError
from distill_core.store.columns import (
    check_lengths,
    decode_positions,
    decode_rows,
    decode_tokens,
    drawn_columns,
    position_array,
)
from distill_core.store.keys import KEY_BYTES, key_of, token_array
from distill_core.store.manifest import read_manifest
from distill_core.store.meta import StoreMeta
from distill_core.store.packed import UNDECODABLE, PackedRows
from distill_core.store.rows import RowArrays
from distill_core.store.shard import ShardView, StoredSequence, damaged, file_sha256

_OPEN_SHARDS = 256
"""Shards kept mapped at a time."""


class StoreReader:
    """Random access to a store by content. Can be pickled and forked: nothing but the directory is carried over.

    Args:
        directory: a finished capture.
        checksums: compare each shard's sha256 when it is first read.
        unfinished: accept a capture that has not finished (whole shards can be read).

    Raises:
        StoreError: not a store, another version of the format, damaged, or unfinished.

    >>> import tempfile
    >>> from distill_core.store import StoreWriter
    >>> meta = StoreMeta(vocabulary_size=5, tokenizer_fingerprint="f", teacher="t", method="topk", k=1)
    >>> rows = RowArrays(kind="exact", ids=np.array([[3]]), temperatures=(1.0,), logits=np.log([[0.9]]),
    ...                  tail=np.log([[0.1]]))
    >>> with StoreWriter(tempfile.mkdtemp(), meta) as writer:
    ...     _ = writer.append([4, 3], [0], rows)
    >>> StoreReader(writer.directory).rows([4, 3], [0]).ids
    array([[3]])
    """

    def __init__(self, directory: str | Path, *, checksums: bool = True, unfinished: bool = False) -> None:
        self.directory = Path(directory)
        self._checksums = checksums
        self._unfinished = unfinished
        found = read_manifest(self.directory)
        if not found.complete and not unfinished:
            raise StoreError(
                f"{self.directory}: the capture has not finished ({found.n_sequences} sequences in whole shards): run "
                "it again, it resumes"
            )
        self.meta: StoreMeta = found.meta
        self.manifest = found
        self._views: dict[int, ShardView] = {}
        keys = np.frombuffer(b"".join(bytes.fromhex(shard.keys) for shard in found.shards), dtype=">u8").reshape(-1, 2)
        self._keys = keys.astype(np.uint64)
        self._order = np.lexsort((self._keys[:, 1], self._keys[:, 0]))
        self._sorted_high = self._keys[self._order, 0]
        self._ends = np.cumsum([shard.n_sequences for shard in found.shards], dtype=np.int64)
        self._prefixes: dict[bytes, list[int]] | None = None

    def __len__(self) -> int:
        """Number of stored sequences."""
        return int(self._keys.shape[0])

    def __contains__(self, key: bytes) -> bool:
        """Whether exactly this sequence is stored (by its 16-byte key)."""
        return self._find(key) is not None

    def __reduce__(self) -> Any:
        return _reopen, (str(self.directory), self._checksums, self._unfinished)

    def rows(self, input_ids: ArrayLike, positions: ArrayLike | None = None, *, draw: int = 0) -> RowArrays:
        """Rows of a stored sequence, or of a sequence that a stored one begins with; the same bits either way.

        Args:
            input_ids: [T] token ids from position 0, without padding.
            positions: [N] rising positions; None: every position of the sequence that has a row.
            draw: which of the ``meta.draws`` stored samples.

        Returns:
            N rows of width ``meta.k``, -1 pads.

        Raises:
            StoreError: the sequence is neither stored nor a prefix of a stored one, a position has no row, or the
                shard is damaged.
            ValueError, TypeError: ids, positions or draw are out of range.
        """
        index, chosen_N = self._request(input_ids, positions, draw)
        _, rows = self.decoded(index, draw=draw)
        return rows if chosen_N is None else rows[chosen_N]

    def packed(self, input_ids: ArrayLike, positions: ArrayLike | None = None, *, draw: int = 0) -> PackedRows:
        """What :meth:`rows` decodes, as it lies in the shard: for decoding elsewhere, as on a GPU.

        Args and errors as of :meth:`rows`; damage inside the columns shows where they are decoded.
        """
        index, chosen_N = self._request(input_ids, positions, draw)
        _, n_rows, columns = self._columns(index)
        path = self._view(self._place(index)[0]).path
        blobs = drawn_columns(columns, self.meta, draw)
        return PackedRows(n_rows, blobs, columns["entropy"], chosen_N, path)

    def _request(
        self, input_ids: ArrayLike, positions: ArrayLike | None, draw: int
    ) -> tuple[int, NDArray[np.int64] | None]:
        """The stored sequence, and which of its rows are asked for; None: all of them."""
        if not 0 <= draw < self.meta.draws:
            raise ValueError(f"draw is {draw}; the store has {self.meta.draws}, counted from 0")
        ids_T = token_array(input_ids)
        index = self._index_of(ids_T)
        stored_N = self._positions(index)
        n_tokens = self._columns(index)[0]
        wanted_N = stored_N[stored_N < ids_T.size] if positions is None else position_array(positions, ids_T.size)
        if wanted_N.size == stored_N.size and np.array_equal(wanted_N, stored_N):
            return index, None
        found_N = np.searchsorted(stored_N, wanted_N)
        missing_N = np.append(stored_N, n_tokens)[found_N] != wanted_N
        if bool(missing_N.any()):
            raise StoreError(
                f"{self.directory}: position {int(wanted_N[missing_N][0])} of the sequence has no stored row "
                f"({int(missing_N.sum())} of {wanted_N.size} asked for are missing): the labels differ from those of "
                "the capture; capture with these"
            )
        return index, found_N

    def positions(self, input_ids: ArrayLike) -> NDArray[np.int64]:
        """[N] positions of the sequence that have rows."""
        ids_T = token_array(input_ids)
        stored_N = self._positions(self._index_of(ids_T))
        return stored_N[stored_N < ids_T.size]

    def revision(self, input_ids: ArrayLike) -> str:
        """Revision of the teacher that gave this sequence's rows."""
        shard, row = self._place(self._index_of(token_array(input_ids)))
        return self._view(shard).revision(row) or self.meta.revision

    def tokens(self, index: int) -> NDArray[np.uint32]:
        """[T] token ids of the sequence stored as number ``index``, in the order of the capture."""
        n_tokens, _, columns = self._columns(index)
        return decode_tokens(_present(columns["tokens"]), n_tokens)

    def key(self, index: int) -> bytes:
        """Key of the sequence stored as number ``index``."""
        return bytes(self._keys[index].astype(">u8").tobytes())

    def encoded(self, index: int) -> StoredSequence:
        """The sequence stored as number ``index`` as it lies in its shard, for copying."""
        shard, row = self._place(index)
        n_tokens, n_rows, columns = self._view(shard).sequence(row)
        blobs = {name: None if blob is None else bytes(blob) for name, blob in columns.items() if name != "key"}
        return StoredSequence(self.key(index), n_tokens, n_rows, self._view(shard).revision(row), blobs)

    def decoded(self, index: int, *, draw: int = 0) -> tuple[NDArray[np.int64], RowArrays]:
        """Positions and rows of the sequence stored as number ``index``."""
        _, n_rows, columns = self._columns(index)
        positions_N = self._positions(index)
        try:
            return positions_N, decode_rows(columns, n_rows, self.meta, draw)
        except UNDECODABLE as error:
            raise self._damaged(index, error) from error

    def _positions(self, index: int) -> NDArray[np.int64]:
        n_tokens, n_rows, columns = self._columns(index)
        try:
            positions_N = decode_positions(_present(columns["positions"]), n_tokens)
            if positions_N.size != n_rows:
                raise ValueError(f"{n_rows} rows are stated; {positions_N.size} positions are there")
            return positions_N
        except UNDECODABLE as error:
            raise self._damaged(index, error) from error

    def _columns(self, index: int) -> tuple[int, int, dict[str, memoryview | None]]:
        shard, row = self._place(index)
        n_tokens, n_rows, columns = self._view(shard).sequence(row)
        try:
            check_lengths(columns, n_tokens, n_rows)
        except UNDECODABLE as error:
            raise self._damaged(index, error) from error
        return n_tokens, n_rows, columns

    def _damaged(self, index: int, error: Exception) -> StoreError:
        path = self._view(self._place(index)[0]).path
        return damaged(path, f"a sequence cannot be decoded: {error}")

    def _place(self, index: int) -> tuple[int, int]:
        shard = int(np.searchsorted(self._ends, index, side="right"))
        return shard, index - (int(self._ends[shard - 1]) if shard else 0)

    def _view(self, shard: int) -> ShardView:
        view = self._views.get(shard)
        if view is None:
            record = self.manifest.shards[shard]
            path = self.directory / record.name
            check_shard(path, record.sha256, record.n_bytes, contents=self._checksums)
            view = ShardView(path)
            view.require_columns(self.meta)
            while len(self._views) >= _OPEN_SHARDS:
                self._views.pop(next(iter(self._views)))
            self._views[shard] = view
        return view

    def _find(self, key: bytes) -> int | None:
        high = np.uint64(int.from_bytes(key[:8], "big"))
        low = np.uint64(int.from_bytes(key[8:KEY_BYTES], "big"))
        place = int(np.searchsorted(self._sorted_high, high))
        while place < self._order.size and self._sorted_high[place] == high:
            index = int(self._order[place])
            if self._keys[index, 1] == low:
                return index
            place += 1
        return None

    def _index_of(self, ids_T: NDArray[np.uint32]) -> int:
        index = self._find(key_of(ids_T, layout=self.meta.layout))
        if index is None:
            index = self._find_prefix(ids_T)
        if index is None:
            raise StoreError(
                f"{self.directory}: the sequence of {ids_T.size} tokens beginning {ids_T[:8].tolist()} is neither "
                "stored nor a prefix of a stored sequence. Rows depend on every token before them, so another cut of "
                "the same text cannot be served: capture this data set, or use the data and sequence length of the "
                "capture"
            )
        return index

    def _find_prefix(self, ids_T: NDArray[np.uint32]) -> int | None:
        """The first stored sequence that begins with ``ids_T``: by the key of its first 2^n tokens, then compared."""
        if ids_T.size == 0:
            return None
        if self._prefixes is None:
            self._prefixes = self._index_prefixes()
        length = 1 << (int(ids_T.size).bit_length() - 1)
        for index in self._prefixes.get(key_of(ids_T[:length], layout=self.meta.layout), ()):
            tokens_T = self.tokens(index)
            if tokens_T.size >= ids_T.size and np.array_equal(tokens_T[: ids_T.size], ids_T):
                return index
        return None

    def _index_prefixes(self) -> dict[bytes, list[int]]:
        prefixes: dict[bytes, list[int]] = {}
        for index in range(len(self)):
            tokens_T = self.tokens(index)
            length = 1
            while length <= tokens_T.size:
                prefixes.setdefault(key_of(tokens_T[:length], layout=self.meta.layout), []).append(index)
                length *= 2
        return prefixes


def check_shard(path: Path, sha256: str, n_bytes: int, *, contents: bool = True) -> None:
    """Compare a shard with its record.

    Raises:
        StoreError: missing, another size or (``contents``) another checksum; says what to do.
    """
    if not path.is_file():
        raise damaged(path, "the file is missing")
    size = path.stat().st_size
    if size != n_bytes:
        raise damaged(path, f"it has {size:,} bytes, {n_bytes:,} were written")
    if contents and file_sha256(path) != sha256:
        raise damaged(path, "its checksum differs from the one recorded")


def _present(blob: memoryview | None) -> memoryview:
    return memoryview(b"") if blob is None else blob


def _reopen(directory: str, checksums: bool, unfinished: bool) -> StoreReader:
    return StoreReader(directory, checksums=checksums, unfinished=unfinished)
