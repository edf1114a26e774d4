"""Integers whose sizes are uneven, such as token ids: a prefix code of their octave, then their lower bits. In numpy.

A vocabulary is ordered by frequency more or less, so small ids are common. An integer of b > 3 bits is its class,
which tells b and the two bits below the leading one, and its lower b - 3 bits as they are; the integers below 8 are
classes of their own. Classes are written by Huffman's code [1]_ for the array at hand, at most 12 bits long.

Blob: number of classes (1 byte), length of each class's code (4 bits each, 0: unused), bytes of the codes (4 bytes),
the codes, the lower bits. Codes are canonical (by length, then class) and begin with their highest bit. Huffman's
merges take the two lightest nodes, of equal ones the older, classes in their order first; if a code gets longer than
12 bits, all weights are halved, rounding up, and the merging begins anew. So every program finds the same code.

.. [1] D. A. Huffman, A method for the construction of minimum-redundancy codes, Proc. IRE 40 (1952).
"""

from __future__ import annotations

import heapq
import struct

import numpy as np
from numpy.typing import NDArray

from distill_core.store import bits

MANTISSA_BITS = 2
"""Bits below the leading one that belong to the class."""

MAX_CLASSES = 124
"""Classes of the integers below 2^32."""

MAX_CODE_BITS = 12

_CODES_BYTES = struct.Struct("<I")


def pack_octaves(values: bits.Ints) -> bytes:
    """Pack integers from 0 to 2^32 - 1; an empty array takes no byte.

    >>> pack_octaves(np.array([5, 5, 5, 9])).hex()
    '090000100001010000000801'
    """
    if values.size == 0:
        return b""
    if int(values.min()) < 0 or int(values.max()) >> 32:
        raise ValueError(f"values go from {int(values.min())} to {int(values.max())}; expected 0 to 2^32 - 1")
    shifts = np.maximum(bits.bit_length(values) - 1 - MANTISSA_BITS, 0)
    classes = (shifts << MANTISSA_BITS) + (values >> shifts)
    lengths = np.array(code_lengths(np.bincount(classes).tolist()), dtype=np.int64)
    codes = bits.pack_widths(reversed_codes(lengths)[classes], lengths[classes])
    header = bytes([lengths.size]) + bits.pack_fixed(lengths, 4) + _CODES_BYTES.pack(len(codes))
    return header + codes + bits.pack_widths(values, shifts)


def unpack_octaves(blob: memoryview, count: int) -> tuple[bits.Ints, memoryview]:
    """Inverse of :func:`pack_octaves`; also gives what follows in the blob.

    Raises:
        ValueError: the blob is cut short, or its codes are not what :func:`pack_octaves` writes.
    """
    if count == 0:
        return np.zeros(0, dtype=np.int64), blob
    n_classes = blob[0] if len(blob) else 0
    table_end = 1 + bits.fixed_bytes(4, n_classes)
    codes_start = table_end + _CODES_BYTES.size
    if not 1 <= n_classes <= MAX_CLASSES or len(blob) < codes_start:
        raise ValueError(f"a table of {n_classes} codes in {len(blob)} bytes; expected 1 to {MAX_CLASSES} codes")
    lengths = bits.unpack_fixed(blob[1:table_end], 4, n_classes)
    codes_end = codes_start + _CODES_BYTES.unpack_from(blob, table_end)[0]
    if len(blob) < codes_end:
        raise ValueError(f"codes end at byte {codes_end}; {len(blob)} are there")
    classes = _decode_classes(blob[codes_start:codes_end], lengths, count)
    shifts = np.maximum((classes >> MANTISSA_BITS) - 1, 0)
    low, rest = bits.unpack_widths(blob[codes_end:], shifts)
    return ((classes - (shifts << MANTISSA_BITS)) << shifts) | low, rest


def code_lengths(weights: list[int]) -> list[int]:
    """Length of each class's code, 0 where the weight is 0; a lone class takes 1 bit.

    >>> code_lengths([5, 0, 1, 1])
    [1, 0, 2, 2]
    """
    used = [index for index, weight in enumerate(weights) if weight]
    if len(used) == 1:
        return [int(index == used[0]) for index in range(len(weights))]
    while True:
        heap = [(weights[index], number) for number, index in enumerate(used)]
        heapq.heapify(heap)
        parents = [0] * (2 * len(used) - 1)
        for parent in range(len(used), 2 * len(used) - 1):
            (first_weight, first), (second_weight, second) = heapq.heappop(heap), heapq.heappop(heap)
            parents[first] = parents[second] = parent
            heapq.heappush(heap, (first_weight + second_weight, parent))
        depths = [0] * len(parents)
        for node in range(len(parents) - 2, -1, -1):  # a parent is younger than its children
            depths[node] = depths[parents[node]] + 1
        if max(depths) <= MAX_CODE_BITS:
            lengths = [0] * len(weights)
            for number, index in enumerate(used):
                lengths[index] = depths[number]
            return lengths
        weights = [(weight + 1) >> 1 for weight in weights]


def reversed_codes(lengths: bits.Ints) -> bits.Ints:
    """The canonical codes, their first bit lowest."""
    codes = np.zeros(lengths.size, dtype=np.int64)
    code = length = 0
    for index in np.lexsort((np.arange(lengths.size), lengths)).tolist():
        if lengths[index] == 0:
            continue
        code <<= int(lengths[index]) - length
        length = int(lengths[index])
        codes[index] = int(f"{code:0{length}b}"[::-1], 2)
        code += 1
    return codes


def _decode_classes(codes: memoryview, lengths: bits.Ints, count: int) -> bits.Ints:
    class_of, length_of = _decoding_table(lengths)
    n_bits = 8 * len(codes)
    shifted = bits.byte_windows(codes, len(codes))[:-1, None] >> np.arange(8, dtype=np.uint64)
    windows = shifted.astype(np.uint16).reshape(-1) & ((1 << MAX_CODE_BITS) - 1)  # at each bit
    following = (np.arange(n_bits) + length_of[windows]).tolist()
    starts, place = [], 0
    try:
        for _ in range(count):
            starts.append(place)
            place = following[place]
    except IndexError:
        place = n_bits + 1
    if (place + 7) // 8 != len(codes):
        raise ValueError(f"{len(codes)} bytes of codes do not hold {count} classes")
    classes: bits.Ints = class_of[windows[np.array(starts)]]
    return classes


def _decoding_table(lengths: bits.Ints) -> tuple[bits.Ints, NDArray[np.int64]]:
    """Class and length of the code that each string of 12 bits begins with; where none, a length beyond any end."""
    used = lengths[lengths > 0]
    kraft = int((1 << MAX_CODE_BITS >> np.minimum(used, MAX_CODE_BITS)).sum())
    lone = used.size == 1 and int(used[0]) == 1
    if bool((used > MAX_CODE_BITS).any()) or not (lone or kraft == 1 << MAX_CODE_BITS):
        raise ValueError(f"the code lengths {lengths.tolist()} make no prefix code")
    class_of = np.zeros(1 << MAX_CODE_BITS, dtype=np.int64)
    length_of = np.full(1 << MAX_CODE_BITS, 1 << 62, dtype=np.int64)
    codes = reversed_codes(lengths)
    for index in np.flatnonzero(lengths).tolist():
        class_of[codes[index] :: 1 << lengths[index]] = index
        length_of[codes[index] :: 1 << lengths[index]] = lengths[index]
    return class_of, length_of
