"""Integers on as few bits as they need, in numpy: fixed width, a width for each value, unary and Rice codes.

Bits fill each byte from its lowest; a value's lowest bit comes first. Every blob is padded to whole bytes with zeros.
``distill_core._codec`` does the same compiled, bit for bit; ``coding`` picks between the two.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]

MAX_RICE = 1 << 40
"""Rice codes take integers below it."""

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
    _check_width(width)
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
    _check_width(width)
    if width == 0 or count == 0:
        return np.zeros(count, dtype=np.int64)
    n_bytes = fixed_bytes(width, count)
    if len(blob) < n_bytes:
        raise ValueError(f"{count} values of {width} bits need {n_bytes} bytes; {len(blob)} are there")
    if width in (8, 16, 32):
        return np.frombuffer(blob, dtype=f"<u{width // 8}", count=count).astype(np.int64)
    first_bit = np.arange(count, dtype=np.int64) * width
    shifted = byte_windows(blob, n_bytes)[first_bit >> 3] >> (first_bit & 7).astype(np.uint64)
    masked: Ints = (shifted & np.uint64((1 << width) - 1)).astype(np.int64)
    return masked


def fixed_bytes(width: int, count: int) -> int:
    """Length of :func:`pack_fixed`'s result."""
    return (width * count + 7) // 8


def pack_widths(values: Ints, widths: Ints) -> bytes:
    """The lowest ``widths[i]`` (0 to 32) bits of each value, one after the other.

    >>> pack_widths(np.array([1, 5]), np.array([2, 3])).hex()
    '15'
    """
    parts = []
    carried = np.zeros(0, dtype=np.uint8)  # bits of the byte that the blocks share
    for start in range(0, values.size, _BLOCK_VALUES // 32):
        width = widths[start : start + _BLOCK_VALUES // 32]
        ends = np.cumsum(width)
        place = np.arange(int(ends[-1])) - np.repeat(ends - width, width)
        block = np.repeat(values[start : start + _BLOCK_VALUES // 32], width)
        bits = np.concatenate([carried, ((block >> place) & 1).astype(np.uint8)])
        whole = bits.size // 8 * 8
        parts.append(np.packbits(bits[:whole], bitorder="little").tobytes())
        carried = bits[whole:]
    return b"".join([*parts, np.packbits(carried, bitorder="little").tobytes()])


def unpack_widths(blob: memoryview, widths: Ints) -> tuple[Ints, memoryview]:
    """Inverse of :func:`pack_widths`; also gives what follows in the blob."""
    ends = np.cumsum(widths)
    n_bytes = (int(ends[-1]) + 7) // 8 if ends.size else 0
    if len(blob) < n_bytes:
        raise ValueError(f"{widths.size} values need {n_bytes} bytes; {len(blob)} are there")
    first_bit = ends - widths
    shifted = byte_windows(blob, n_bytes)[first_bit >> 3] >> (first_bit & 7).astype(np.uint64)
    masks = (np.uint64(1) << widths.astype(np.uint64)) - np.uint64(1)
    return (shifted & masks).astype(np.int64), blob[n_bytes:]


def byte_windows(blob: memoryview, n_bytes: int) -> NDArray[np.uint64]:
    """The 64 bits that begin at each of the first ``n_bytes`` bytes (and at the end of them); zeros follow the last."""
    buffer = np.zeros(n_bytes + 8, dtype=np.uint8)
    buffer[:n_bytes] = np.frombuffer(blob, dtype=np.uint8, count=n_bytes)
    windows: NDArray[Any] = np.ndarray(shape=(n_bytes + 1,), dtype="<u8", buffer=buffer.data, strides=(1,))
    return windows


def pack_rice(values: Ints) -> bytes:
    """Rice code of non-negative integers: ``r`` low bits each, the rest in unary, with the best r for this array.

    Good for gaps of sorted numbers (about geometric): 1.5 to 2 bits above log2 of the mean.
    """
    if values.size == 0:
        return b""
    if int(values.min()) < 0 or int(values.max()) >= MAX_RICE:
        raise ValueError(f"values go from {int(values.min())} to {int(values.max())}; expected 0 to 2^40 - 1")
    costs = [values.size * (r + 1) + int((values >> r).sum()) for r in range(32)]
    r = int(np.argmin(costs))
    return bytes([r]) + pack_fixed(values & ((1 << r) - 1), r) + pack_unary(values >> r)


def unpack_rice(blob: memoryview, count: int) -> tuple[Ints, memoryview]:
    """Inverse of :func:`pack_rice`; also gives what follows in the blob."""
    if count == 0:
        return np.zeros(0, dtype=np.int64), blob
    if len(blob) == 0:
        raise ValueError(f"{count} values are missing")
    r = blob[0]
    if r > 31:
        raise ValueError(f"a Rice code has {r} low bits; expected at most 31")
    start = 1 + fixed_bytes(r, count)
    low = unpack_fixed(blob[1:start], r, count)
    high, rest = unpack_unary(blob[start:], count)
    if int(high.max()) >= MAX_RICE >> r:
        raise ValueError("a Rice code holds a value of 2^40 or more")
    return (high << r) | low, rest


def pack_unary(values: Ints) -> bytes:
    """Each value as that many 0 bits and a 1."""
    if values.size == 0:
        return b""
    if int(values.min()) < 0:
        raise ValueError(f"values go from {int(values.min())}; expected 0 or more")
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


def bit_length(values: Ints) -> Ints:
    """Bits of each non-negative integer below 2^53 (0 for 0)."""
    return np.frexp(values.astype(np.float64))[1].astype(np.int64)


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


def rank_in_segment(counts: Ints) -> Ints:
    """0, 1, 2, ... anew in each segment of the flat array."""
    return np.arange(int(counts.sum())) - np.repeat(segment_starts(counts), counts)


def _check_width(width: int) -> None:
    if not 0 <= width <= 32:
        raise ValueError(f"values of {width} bits; expected 0 to 32")
