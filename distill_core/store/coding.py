"""The codes that columns are made of, in numpy or compiled: the same bytes either way.

The compiled ones (``distill_core._codec``) are used where they were built. Both write what ``bits`` and ``octaves``
describe; the two codes below are built from those.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import Literal

import numpy as np

from distill_core.errors import StoreError
from distill_core.store import bits, octaves

_OFFSET_HEADER = struct.Struct("<Bi")
"""pack_offset: width in bits, smallest value."""

Pack = Callable[[bits.Ints], bytes]
Unpack = Callable[[memoryview, int], tuple[bits.Ints, memoryview]]


@dataclass(frozen=True)
class Codec:
    """Packers of integers, and their inverses, which also give what follows in the blob (but for ``unpack_fixed``).

    Args:
        name: ``numpy`` or ``compiled``.
    """

    name: str
    pack_fixed: Callable[[bits.Ints, int], bytes]
    unpack_fixed: Callable[[memoryview, int, int], bits.Ints]
    pack_unary: Pack
    unpack_unary: Unpack
    pack_rice: Pack
    unpack_rice: Unpack
    pack_octaves: Pack
    unpack_octaves: Unpack

    def pack_offset(self, values: bits.Ints) -> bytes:
        """Pack 32-bit integers of any sign: width, smallest value, the differences to it; equal ones cost 5 bytes."""
        if values.size == 0:
            return b""
        low = int(values.min())
        width = bits.width_of(int(values.max()) - low)
        return _OFFSET_HEADER.pack(width, low) + self.pack_fixed(values - low, width)

    def unpack_offset(self, blob: memoryview, count: int) -> tuple[bits.Ints, memoryview]:
        """Inverse of :meth:`pack_offset`; also gives what follows in the blob."""
        if count == 0:
            return np.zeros(0, dtype=np.int64), blob
        if len(blob) < _OFFSET_HEADER.size:
            raise ValueError(f"{count} values are missing")
        width, low = _OFFSET_HEADER.unpack_from(blob)
        end = _OFFSET_HEADER.size + bits.fixed_bytes(width, count)
        return self.unpack_fixed(blob[_OFFSET_HEADER.size : end], width, count) + low, blob[end:]

    def pack_by_rank(self, values: bits.Ints, ranks: bits.Ints) -> bytes:
        """Rice codes of values whose size depends on their rank (from 1): those of 1, of 2 and 3, of 4 to 7, ..."""
        groups = bits.bit_length(ranks)
        return b"".join(self.pack_rice(values[groups == group]) for group in range(1, _last(groups) + 1))

    def unpack_by_rank(self, blob: memoryview, ranks: bits.Ints) -> tuple[bits.Ints, memoryview]:
        """Inverse of :meth:`pack_by_rank`; also gives what follows in the blob."""
        groups = bits.bit_length(ranks)
        values = np.zeros(ranks.size, dtype=np.int64)
        for group in range(1, _last(groups) + 1):
            mine = groups == group
            values[mine], blob = self.unpack_rice(blob, int(mine.sum()))
        return values, blob


NUMPY = Codec(
    "numpy",
    bits.pack_fixed,
    bits.unpack_fixed,
    bits.pack_unary,
    bits.unpack_unary,
    bits.pack_rice,
    bits.unpack_rice,
    octaves.pack_octaves,
    octaves.unpack_octaves,
)


_chosen: Codec | None = None


def active() -> Codec:
    """The codec in use: the compiled one where it was built."""
    global _chosen
    if _chosen is None:
        try:
            _chosen = compiled()
        except StoreError:
            _chosen = NUMPY
    return _chosen


def codec_in_use() -> str:
    """``compiled`` or ``numpy``: by which codec stores are written and read here. Both give the same bytes.

    >>> codec_in_use() in ("compiled", "numpy")
    True
    """
    return active().name


@contextmanager
def using(name: Literal["numpy", "compiled"]) -> Iterator[Codec]:
    """Use one codec in a block, in all threads; for tests and benchmarks, as the bytes are the same.

    Raises:
        StoreError: ``compiled`` was not built, saying why.

    >>> with using("numpy") as codec:
    ...     codec_in_use()
    'numpy'
    """
    global _chosen
    before, _chosen = _chosen, NUMPY if name == "numpy" else compiled()
    try:
        yield _chosen
    finally:
        _chosen = before


def compiled() -> Codec:
    """The compiled codec.

    Raises:
        StoreError: it was not built, saying why and what to do.
    """
    try:
        native = import_module("distill_core._codec")
    except ImportError as error:
        raise StoreError(
            f"the compiled codec cannot be loaded ({error}): install a C++ compiler and pybind11 and install "
            "distill-core again; the numpy codec reads and writes the same bytes"
        ) from error
    return Codec(
        "compiled",
        _pack_fixed(native),
        _unpack_fixed(native),
        _packer(native.pack_unary),
        _unpacker(native.unpack_unary),
        _packer(native.pack_rice),
        _unpacker(native.unpack_rice),
        _packer(native.pack_octaves),
        _unpacker(native.unpack_octaves),
    )


def finished(rest: memoryview, column: str) -> None:
    """Refuse a column that is longer than what was read of it.

    Raises:
        ValueError: naming the column.
    """
    if len(rest):
        raise ValueError(f"column {column!r} goes on for {len(rest)} bytes after its last value")


def _plain(values: bits.Ints) -> bits.Ints:
    return np.ascontiguousarray(values, dtype=np.int64)


def _packer(write: Pack) -> Pack:
    return lambda values: write(_plain(values))


def _pack_fixed(native: ModuleType) -> Callable[[bits.Ints, int], bytes]:
    def pack(values: bits.Ints, width: int) -> bytes:
        packed: bytes = native.pack_fixed(_plain(values), width)
        return packed

    return pack


def _unpacker(
    read: Callable[[memoryview, bits.Ints], int],
) -> Callable[[memoryview, int], tuple[bits.Ints, memoryview]]:
    def unpack(blob: memoryview, count: int) -> tuple[bits.Ints, memoryview]:
        values = np.empty(count, dtype=np.int64)
        return values, blob[read(blob, values) :]

    return unpack


def _unpack_fixed(native: ModuleType) -> Callable[[memoryview, int, int], bits.Ints]:
    def unpack(blob: memoryview, width: int, count: int) -> bits.Ints:
        values = np.empty(count, dtype=np.int64)
        native.unpack_fixed(blob, width, values)
        return values

    return unpack


def _last(groups: bits.Ints) -> int:
    return int(groups.max(initial=0))
