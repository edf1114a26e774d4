"""Exact rows (top-k with tails) as bytes and back.

Legend: N rows, K support size, M temperatures, E entries of all rows one after the other.

A row is its logits below the largest one, on a grid, and for each temperature the log-odds of the tail to the largest
logit, on a grid of its own. The largest is not stored: it has what the rest leaves, ``p_max = 1 / (1 + sum of odds)``.
With every log-odds within s/2 of the truth, ``log p_i`` and ``log(1 - p_max)`` are within s, however peaked the row
(a log-sum-exp lies between the smallest and the largest change of its terms). Entries go by descending value, so gaps
are small numbers, the smaller the further down a row: about 5 bits each. Ids are coded by octave, about 13 bits each
at V = 49,152.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from distill_core.store import bits
from distill_core.store.coding import Codec, active, finished
from distill_core.store.meta import STEP_NAT, StoreMeta
from distill_core.store.rows import RowArrays

FLOOR_NAT = 700.0
"""Outcomes below e^-700 (about 1e-304) of the most likely one have probability 0: what float64 odds can hold."""

IMPOSSIBLE = -(1 << 24)
"""Grid value that stands for log 0."""

Floats = NDArray[np.float64]


def encode_topk(rows: RowArrays, meta: StoreMeta) -> dict[str, bytes]:
    """Columns of one sequence. ``rows`` are checked (see ``checks``)."""
    assert rows.logits is not None and rows.tail is not None
    temperatures_M = np.asarray(meta.temperatures, dtype=np.float64)
    ids_NK = rows.ids.astype(np.int64)
    logits_NK = np.where(ids_NK >= 0, rows.logits.astype(np.float64), -np.inf)
    tail_NM = rows.tail.astype(np.float64)
    best_N = np.maximum(logits_NK.max(axis=1, initial=-np.inf), (tail_NM * temperatures_M).max(axis=1))
    logits_NK[logits_NK < (best_N - FLOOR_NAT * temperatures_M.max())[:, None]] = -np.inf

    finite_NK = np.isfinite(logits_NK)
    n_valued_N = finite_NK.sum(axis=1)
    top_N = np.where(n_valued_N > 0, logits_NK.max(axis=1, initial=-np.inf), best_N)
    below_NK = top_N[:, None] - np.where(finite_NK, logits_NK, top_N[:, None])
    grid_NK = np.rint(below_NK / (STEP_NAT * temperatures_M.min())).astype(np.int64)
    grid_NK[~finite_NK] = np.iinfo(np.int64).max - 1
    grid_NK[ids_NK < 0] = np.iinfo(np.int64).max
    # by descending logit, ties by lowest id: the order of topk_logits, whatever order came in
    order_NK = np.lexsort((ids_NK, -logits_NK, grid_NK), axis=1)
    ids_NK = np.take_along_axis(ids_NK, order_NK, axis=1)
    grid_NK = np.take_along_axis(grid_NK, order_NK, axis=1)
    n_entries_N = (ids_NK >= 0).sum(axis=1)

    with np.errstate(invalid="ignore"):
        odds_NM = tail_NM - top_N[:, None] / temperatures_M
        alive_NM = tail_NM >= best_N[:, None] / temperatures_M - FLOOR_NAT
    tail_grid_NM = np.where(alive_NM, np.rint(np.where(alive_NM, odds_NM, 0.0) / STEP_NAT), IMPOSSIBLE)
    codec = active()
    return {
        "counts": codec.pack_offset(n_entries_N) + codec.pack_offset(n_valued_N),
        "ids": codec.pack_octaves(ids_NK[ids_NK >= 0]),
        "values": pack_descending(codec, leading(grid_NK, n_valued_N), n_valued_N),
        "tail": codec.pack_offset(tail_grid_NM.astype(np.int64).reshape(-1)),
    }


def decode_topk(columns: dict[str, memoryview], n_rows: int, meta: StoreMeta) -> RowArrays:
    """Rows of one sequence: ``logits = T0 log p``, tails to match, float32."""
    temperatures_M = np.asarray(meta.temperatures, dtype=np.float64)
    codec = active()
    n_entries_N, n_valued_N = unpack_counts(codec, columns["counts"], n_rows, meta.k)
    ids_NK = placed(unpack_ids(codec, columns["ids"], n_entries_N, meta), n_entries_N, meta.k, fill=-1)
    grid_E = unpack_descending(codec, columns["values"], n_valued_N)
    below_E = grid_E * (STEP_NAT * temperatures_M.min())
    logits_NK = placed(-below_E, n_valued_N, meta.k, fill=-np.inf)
    tail_grid, rest = codec.unpack_offset(columns["tail"], n_rows * temperatures_M.size)
    finished(rest, "tail")
    tail_NM = np.where(tail_grid == IMPOSSIBLE, -np.inf, tail_grid * STEP_NAT).reshape(n_rows, temperatures_M.size)

    # log-sum-exp at T0, then shift so that the logits are T0 log p
    first = temperatures_M[0]
    total_N = _logsumexp(np.concatenate([logits_NK / first, tail_NM[:, :1]], axis=1))
    logits_NK = logits_NK - (first * total_N)[:, None]
    tail_NM = tail_NM - (first * total_N)[:, None] / temperatures_M
    return RowArrays(
        kind="exact",
        ids=ids_NK,
        temperatures=meta.temperatures,
        logits=logits_NK.astype(np.float32),
        tail=tail_NM.astype(np.float32),
    )


def unpack_counts(codec: Codec, blob: memoryview, n_rows: int, k: int) -> tuple[bits.Ints, bits.Ints]:
    """Entries of each row, and how many of them have a value of their own."""
    n_entries_N, rest = codec.unpack_offset(blob, n_rows)
    n_valued_N, rest = codec.unpack_offset(rest, n_rows)
    finished(rest, "counts")
    low, high = int(n_valued_N.min(initial=0)), int(n_entries_N.max(initial=0))
    if low < 0 or high > k or bool((n_valued_N > n_entries_N).any()):
        raise ValueError(f"column 'counts' tells of {low} to {high} entries in a row; expected 0 to k = {k}")
    return n_entries_N, n_valued_N


def unpack_ids(codec: Codec, blob: memoryview, counts_N: bits.Ints, meta: StoreMeta) -> bits.Ints:
    """Ids coded by octave, one row after the other."""
    ids_E, rest = codec.unpack_octaves(blob, int(counts_N.sum()))
    finished(rest, "ids")
    return in_vocabulary(ids_E, meta)


def in_vocabulary(ids_E: bits.Ints, meta: StoreMeta) -> bits.Ints:
    """The ids, all of which must be tokens."""
    if int(ids_E.max(initial=0)) >= meta.vocabulary_size:
        raise ValueError(f"token id {int(ids_E.max())} in a vocabulary of {meta.vocabulary_size}")
    return ids_E


def pack_descending(codec: Codec, grid_E: bits.Ints, counts_N: bits.Ints) -> bytes:
    """Ascending grid values that start at 0 in each row, as gaps by rank."""
    rank_E = bits.rank_in_segment(counts_N)
    return codec.pack_by_rank(np.diff(grid_E, prepend=0)[rank_E > 0], rank_E[rank_E > 0])


def unpack_descending(codec: Codec, blob: memoryview, counts_N: bits.Ints) -> bits.Ints:
    """Inverse of :func:`pack_descending`."""
    rank_E = bits.rank_in_segment(counts_N)
    gaps_E = np.zeros(rank_E.size, dtype=np.int64)
    gaps_E[rank_E > 0], rest = codec.unpack_by_rank(blob, rank_E[rank_E > 0])
    finished(rest, "values")
    return bits.segment_cumsum(gaps_E, counts_N)


def leading(values_NK: bits.Ints, counts_N: bits.Ints) -> bits.Ints:
    """The first ``counts_N`` entries of each row, one row after the other."""
    return values_NK[np.arange(values_NK.shape[1]) < counts_N[:, None]]


def placed(values_E: NDArray[Any], counts_N: bits.Ints, k: int, *, fill: float) -> NDArray[Any]:
    """Inverse of :func:`leading`: rows of width k."""
    placed_NK = np.full((counts_N.size, k), fill, dtype=values_E.dtype)
    placed_NK[np.arange(k) < counts_N[:, None]] = values_E
    return placed_NK


def _logsumexp(values_NK: Floats) -> Floats:
    """The largest counts as exactly 1: the log of a sum near 1 keeps the digits of what the others add."""
    best_N = values_NK.argmax(axis=1)[:, None]
    top_N1 = np.take_along_axis(values_NK, best_N, axis=1)
    others_NK = np.exp(values_NK - top_N1)
    nothing_N1 = top_N1 - top_N1  # NaN for a row of probability 0
    np.put_along_axis(others_NK, best_N, nothing_N1, axis=1)
    return np.asarray(top_N1[:, 0] + np.log1p(others_NK.sum(axis=1)))
