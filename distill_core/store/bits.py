"""Integers on as few bits as they need, vectorised: fixed width, offset + fixed width, and Rice codes.

Bits fill each byte from its lowest; a value's lowest bit comes first. Every blob is padded to whole bytes with zeros.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]

_OFFSET_HEADER = struct.Struct("<Bi")
"""pack_offset: width in bits, smallest value."""

_BLOCK_VALUES = 1 << 18
"""Values expanded to bits at a time while packing, to bound memory."""


def width_of(maximum: int) -> int:
    """Bits that hold every integer from 0 to ``maximum``."""
    return int(maximum).bit_length()


def pack_fixed(values: Ints, width: int) -> bytes:
    """Pack non-negative integers on ``width`` (0 to 32) bits each.

    >>> pack_fixed(np.array([1, 2, 3]), 2).hex()
    '39'
    """
    if width == 0 or values.size == 0:
        return b""
    if width in (8, 16, 32):
        return values.astype(f"<u{width // 8}").tobytes()
    shifts = np.arange(width, dtype=np.uint64)
    parts = []
    for start in range(0, values.size, _BLOCK_VALUES):  # a block is a multiple of 8 values: whole bytes
        block = values[start : start + _BLOCK_VALUES].astype(np.uint64)
        bits = ((block[:, None] >> shifts) & np.uint64(1)).astype(np.uint8)
        parts.append(np.packbits(bits.reshape(-1), bitorder="little").tobytes())
    return b"".join(parts)


def unpack_fixed(blob: memoryview, width: int, count: int) -> Ints:
    """Inverse of :func:`pack_fixed`.

    >>> unpack_fixed(memoryview(bytes.fromhex("39")), 2, 3)
    array([1, 2, 3])
    """
    if width == 0 or count == 0:
        return np.zeros(count, dtype=np.int64)
    n_bytes = fixed_bytes(width, count)
    if len(blob) < n_bytes:
        raise ValueError(f"{count} values of {width} bits need {n_bytes} bytes; {len(blob)} are there")
    if width in (8, 16, 32):
        return np.frombuffer(blob, dtype=f"<u{width // 8}", count=count).astype(np.int64)
    buffer = np.zeros(n_bytes + 8, dtype=np.uint8)
    buffer[:n_bytes] = np.frombuffer(blob, dtype=np.uint8, count=n_bytes)
    windows: NDArray[Any] = np.ndarray(shape=(n_bytes + 1,), dtype="<u8", buffer=buffer.data, strides=(1,))
    first_bit = np.arange(count, dtype=np.int64) * width
    shifted = windows[first_bit >> 3] >> (first_bit & 7).astype(np.uint64)
    masked: Ints = (shifted & np.uint64((1 << width) - 1)).astype(np.int64)
    return masked


def fixed_bytes(width: int, count: int) -> int:
    """Length of :func:`pack_fixed`'s result."""
    return (width * count + 7) // 8


def pack_offset(values: Ints) -> bytes:
    """Pack integers of any sign: width, smallest value, then the differences to it; equal values cost 5 bytes."""
    if values.size == 0:
        return b""
    low = int(values.min())
    width = width_of(int(values.max()) - low)
    return _OFFSET_HEADER.pack(width, low) + pack_fixed(values - low, width)


def unpack_offset(blob: memoryview, count: int) -> tuple[Ints, memoryview]:
    """Inverse of :func:`pack_offset`; also gives what follows in the blob."""
    if count == 0:
        return np.zeros(0, dtype=np.int64), blob
    if len(blob) < _OFFSET_HEADER.size:
        raise ValueError(f"{count} values are missing")
    width, low = _OFFSET_HEADER.unpack_from(blob)
    end = _OFFSET_HEADER.size + fixed_bytes(width, count)
    return unpack_fixed(blob[_OFFSET_HEADER.size : end], width, count) + low, blob[end:]


def pack_rice(values: Ints) -> bytes:
    """Rice code of non-negative integers: ``r`` low bits each, the rest in unary, with the best r for this array.

    Good for gaps of sorted numbers (about geometric): 1.5 to 2 bits above log2 of the mean.
    """
    if values.size == 0:
        return b""
    costs = [values.size * (r + 1) + int((values >> r).sum()) for r in range(32)]
    r = int(np.argmin(costs))
    return bytes([r]) + pack_fixed(values & ((1 << r) - 1), r) + pack_unary(values >> r)


def unpack_rice(blob: memoryview, count: int) -> tuple[Ints, memoryview]:
    """Inverse of :func:`pack_rice`; also gives what follows in the blob."""
    if count == 0:
        return np.zeros(0, dtype=np.int64), blob
    r = blob[0]
    start = 1 + fixed_bytes(r, count)
    low = unpack_fixed(blob[1:start], r, count)
    high, rest = unpack_unary(blob[start:], count)
    return (high << r) | low, rest


def pack_unary(values: Ints) -> bytes:
    """Each value as that many 0 bits and a 1."""
    if values.size == 0:
        return b""
    ends = np.cumsum(values + 1)
    bits = np.zeros(int(ends[-1]), dtype=np.uint8)
    bits[ends - 1] = 1
    return np.packbits(bits, bitorder="little").tobytes()


def unpack_unary(blob: memoryview, count: int) -> tuple[Ints, memoryview]:
    """Inverse of :func:`pack_unary`; also gives what follows in the blob."""
    if count == 0:
        return np.zeros(0, dtype=np.int64), blob
    ones = np.flatnonzero(np.unpackbits(np.frombuffer(blob, dtype=np.uint8), bitorder="little"))[:count]
    if ones.size < count:
        raise ValueError(f"a unary code of {count} values ends after {ones.size}")
    return np.diff(ones, prepend=-1) - 1, blob[int(ones[-1]) // 8 + 1 :]


def segment_starts(counts: Ints) -> Ints:
    """First index of each segment of a flat array, given the segments' lengths."""
    return np.cumsum(counts) - counts


def segment_cumsum(values: Ints, counts: Ints) -> Ints:
    """Running sums that start anew in each segment."""
    if values.size == 0:
        return values
    total = np.cumsum(values)
    starts = segment_starts(counts)
    before = np.where(starts > 0, total[np.maximum(starts, 1) - 1], 0)
    sums: Ints = total - np.repeat(before, counts)
    return sums


def first_in_segment(counts: Ints) -> NDArray[np.bool_]:
    """True at the first value of each (non-empty) segment of the flat array."""
    marks = np.zeros(int(counts.sum()), dtype=np.bool_)
    marks[segment_starts(counts)[counts > 0]] = True
    return marks
