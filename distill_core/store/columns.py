"""One stored sequence: its rows, positions and tokens as named binary columns, and back.

Legend: T tokens, N rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from distill_core.store import bits
from distill_core.store.coding import active, finished
from distill_core.store.meta import ENTROPY_STEP_NAT, LABEL_STEP_NAT, StoreMeta
from distill_core.store.rows import FloatArray, RowArrays
from distill_core.store.sampled_codec import (
    decode_multinomial,
    decode_threshold,
    encode_multinomial,
    encode_threshold,
)
from distill_core.store.topk_codec import FLOOR_NAT, IMPOSSIBLE, decode_topk, encode_topk

_CODECS = {
    "topk": (encode_topk, decode_topk, ("counts", "ids", "values", "tail")),
    "threshold": (encode_threshold, decode_threshold, ("counts", "ids", "ids_sorted", "values", "tail")),
    "multinomial": (encode_multinomial, decode_multinomial, ("counts", "ids_sorted", "values")),
}

OPTIONAL_COLUMNS = ("entropy", "label")
"""Null where a sequence was stored without."""

_RUNS, _BITMAP = b"\x01", b"\x02"


def payload_columns(meta: StoreMeta) -> tuple[str, ...]:
    """Names of the columns that hold rows; draw j > 0 of a sample has columns of its own, named ``ids.j``."""
    names = _CODECS[meta.method][2]
    return tuple(_drawn(name, draw) for draw in range(meta.draws) for name in names)


def _drawn(name: str, draw: int) -> str:
    return name if draw == 0 else f"{name}.{draw}"


def encode_rows(draws: Sequence[RowArrays], meta: StoreMeta) -> dict[str, bytes | None]:
    """Payload and optional columns of one sequence; the draws are checked and share positions."""
    encode = _CODECS[meta.method][0]
    columns: dict[str, bytes | None] = {}
    for draw, rows in enumerate(draws):
        for name, blob in encode(rows, meta).items():
            columns[_drawn(name, draw)] = blob
    columns["entropy"] = _on_grid(draws[0].entropy, ENTROPY_STEP_NAT, least=0.0)
    columns["label"] = _on_grid(draws[0].label_logprob, LABEL_STEP_NAT, least=-np.inf)
    return columns


def decode_rows(columns: Mapping[str, memoryview | None], n_rows: int, meta: StoreMeta, draw: int) -> RowArrays:
    """Inverse of :func:`encode_rows` for one draw.

    Raises:
        ValueError: the bytes are not what the description says (damaged).
    """
    rows = _CODECS[meta.method][1](drawn_columns(columns, meta, draw), n_rows, meta)
    return replace(
        rows,
        entropy=_off_grid(columns["entropy"], n_rows, ENTROPY_STEP_NAT),
        label_logprob=_off_grid(columns["label"], n_rows, LABEL_STEP_NAT),
    )


def drawn_columns(columns: Mapping[str, memoryview | None], meta: StoreMeta, draw: int) -> dict[str, memoryview]:
    """The payload columns of one draw, by the names of draw 0."""
    payload = {name: columns[_drawn(name, draw)] for name in _CODECS[meta.method][2]}
    return {name: memoryview(b"") if blob is None else blob for name, blob in payload.items()}


def _on_grid(values_N: FloatArray | None, step: float, *, least: float) -> bytes | None:
    if values_N is None:
        return None
    possible_N = values_N > -FLOOR_NAT
    grid_N = np.rint(np.maximum(np.where(possible_N, values_N, 0.0), least) / step)
    return active().pack_offset(np.where(possible_N, grid_N, IMPOSSIBLE).astype(np.int64))


def _off_grid(blob: memoryview | None, n_rows: int, step: float) -> NDArray[np.float32] | None:
    if blob is None:
        return None
    grid_N, rest = active().unpack_offset(blob, n_rows)
    finished(rest, "entropy or label")
    return np.where(grid_N == IMPOSSIBLE, -np.inf, grid_N * step).astype(np.float32)


def check_lengths(columns: Mapping[str, memoryview | None], n_tokens: int, n_rows: int) -> None:
    """Refuse a stated length that the bytes do not bear out, before memory is taken for it.

    Raises:
        ValueError: saying what is stated and what is there.
    """
    blob = columns["tokens"] or memoryview(b"")
    width = blob[0] if len(blob) else 0
    if not 1 <= width <= 32 or len(blob) != 1 + bits.fixed_bytes(width, n_tokens):
        raise ValueError(f"{n_tokens} tokens of {width} bits are stated; the column has {len(blob)} bytes")
    if n_rows > n_tokens:
        raise ValueError(f"{n_rows} rows are stated for {n_tokens} tokens")


def encode_tokens(ids_T: NDArray[np.uint32], meta: StoreMeta) -> bytes:
    """Token ids on as many bits as the largest needs (at least the vocabulary's): first byte the width, 1 to 32."""
    width = max(1, bits.width_of(meta.vocabulary_size - 1), bits.width_of(int(ids_T.max(initial=0))))
    return bytes([width]) + active().pack_fixed(ids_T.astype(np.int64), width)


def decode_tokens(blob: memoryview, n_tokens: int) -> NDArray[np.uint32]:
    """Inverse of :func:`encode_tokens`."""
    return active().unpack_fixed(blob[1:], blob[0], n_tokens).astype("<u4")


def position_array(positions: ArrayLike, n_tokens: int) -> NDArray[np.int64]:
    """Positions as int64, checked: rising and inside the sequence.

    Raises:
        TypeError: not integers.
        ValueError: not one-dimensional, not strictly rising, or outside [0, n_tokens).
    """
    array_N = np.asarray(positions)
    if array_N.ndim != 1:
        raise ValueError(f"positions has shape {array_N.shape}; expected one dimension, one entry per row")
    if array_N.size == 0:
        return np.zeros(0, dtype=np.int64)
    if array_N.dtype.kind not in "iu":
        raise TypeError(f"positions has dtype {array_N.dtype}; expected integers")
    array_N = array_N.astype(np.int64)
    if bool((np.diff(array_N) <= 0).any()):
        raise ValueError("positions must rise strictly; sort them and give each once")
    if int(array_N[0]) < 0 or int(array_N[-1]) >= n_tokens:
        raise ValueError(
            f"positions go from {int(array_N[0])} to {int(array_N[-1])}; the sequence has positions 0 to {n_tokens - 1}"
        )
    return array_N


def encode_positions(positions_N: NDArray[np.int64], n_tokens: int) -> bytes:
    """Empty: every position but the last (plain text); else runs [start, stop) or a bitmap, whichever is shorter."""
    if positions_N.size == max(n_tokens - 1, 0) and np.array_equal(positions_N, np.arange(positions_N.size)):
        return b""
    inside = np.zeros(n_tokens + 2, dtype=np.int8)
    inside[positions_N + 1] = 1
    edges = np.flatnonzero(np.diff(inside))
    runs = edges.astype("<u4").tobytes()
    bitmap = np.packbits(inside[1:-1].astype(np.uint8), bitorder="little").tobytes()
    return _RUNS + runs if len(runs) <= len(bitmap) else _BITMAP + bitmap


def decode_positions(blob: memoryview, n_tokens: int) -> NDArray[np.int64]:
    """Inverse of :func:`encode_positions`."""
    if len(blob) == 0:
        return np.arange(max(n_tokens - 1, 0))
    if blob[:1] == _BITMAP:
        inside = np.unpackbits(np.frombuffer(blob[1:], dtype=np.uint8), bitorder="little")[:n_tokens]
        return np.flatnonzero(inside)
    edges = np.frombuffer(blob[1:], dtype="<u4").astype(np.int64)
    if bool((edges > n_tokens).any()):
        raise ValueError(f"positions go to {int(edges.max())} in a sequence of {n_tokens} tokens")
    marks = np.zeros(n_tokens + 1, dtype=np.int8)
    marks[edges[0::2]] += 1
    marks[edges[1::2]] -= 1
    return np.flatnonzero(np.cumsum(marks[:-1]))
