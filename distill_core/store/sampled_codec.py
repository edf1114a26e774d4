"""Sampled rows (threshold and multinomial) as bytes and back.

Legend: N rows, K support size, E entries of all rows one after the other.

*Threshold*: entries with p > c (the head) keep their probability: log-odds to the largest on a grid, as in
``topk_codec``; every other entry weighs c and is an id alone, coded as the gap to the next lower one. The weight of all
of those together, S c, is stored as log-odds to the largest; c follows, and so does the largest: rows sum to 1.

*Multinomial*: weights are counts / k. Counts are stored exactly, in unary (k bits per row), ids as gaps.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from distill_core.store import bits
from distill_core.store.meta import STEP_NAT, StoreMeta
from distill_core.store.rows import RowArrays
from distill_core.store.topk_codec import IMPOSSIBLE, leading, pack_descending, placed, unpack_descending

ABOVE = 1.0 + 2.0**-20
"""A head entry decodes to at least this times c, so that ``weight > c`` tells the head in float32 too."""


def encode_threshold(rows: RowArrays, meta: StoreMeta) -> dict[str, bytes]:
    """Columns of one sequence. ``rows`` are checked (see ``checks``)."""
    assert rows.weights is not None and rows.threshold is not None
    weights_NK = np.where(rows.ids >= 0, rows.weights, 0).astype(np.float64)
    head_NK = weights_NK > rows.threshold.astype(np.float64)[:, None]
    sampled_NK = (weights_NK > 0) & ~head_NK
    n_head_N, n_sampled_N = head_NK.sum(axis=1), sampled_NK.sum(axis=1)

    head_ids_NK, grid_NK = _descending_head(rows.ids.astype(np.int64), weights_NK, head_NK)
    top_N = np.where(head_NK, weights_NK, 0.0).max(axis=1, initial=0.0)
    mass_N = np.where(sampled_NK, weights_NK, 0.0).sum(axis=1)
    both_N = (n_head_N > 0) & (n_sampled_N > 0)
    odds_N = np.log(np.where(both_N, mass_N, 1.0)) - np.log(np.where(both_N, top_N, 1.0))
    tail_N = np.where(n_sampled_N > 0, np.rint(odds_N / STEP_NAT), IMPOSSIBLE).astype(np.int64)
    return {
        "counts": bits.pack_offset(n_head_N + n_sampled_N) + bits.pack_offset(n_head_N),
        "ids": bits.pack_fixed(leading(head_ids_NK, n_head_N), bits.width_of(meta.vocabulary_size - 1)),
        "ids_sorted": pack_sorted_ids(rows.ids.astype(np.int64), sampled_NK),
        "values": pack_descending(leading(grid_NK, n_head_N), n_head_N),
        "tail": bits.pack_offset(tail_N),
    }


def decode_threshold(columns: dict[str, memoryview], n_rows: int, meta: StoreMeta) -> RowArrays:
    """Rows of one sequence: head by descending weight, then the entries of weight c by id."""
    n_entries_N, rest = bits.unpack_offset(columns["counts"], n_rows)
    n_head_N, _ = bits.unpack_offset(rest, n_rows)
    n_sampled_N = n_entries_N - n_head_N
    width = bits.width_of(meta.vocabulary_size - 1)
    head_ids_E = bits.unpack_fixed(columns["ids"], width, int(n_head_N.sum()))
    sampled_ids_E = unpack_sorted_ids(columns["ids_sorted"], n_sampled_N)
    grid_E = unpack_descending(columns["values"], n_head_N)
    tail_N, _ = bits.unpack_offset(columns["tail"], n_rows)

    mass_N = np.where(n_sampled_N > 0, np.exp(tail_N * STEP_NAT), 0.0)
    threshold_N = mass_N / np.maximum(n_sampled_N, 1)
    head_NK = placed(np.exp(-grid_E * STEP_NAT), n_head_N, meta.k, fill=0.0)
    is_head_NK = np.arange(meta.k) < n_head_N[:, None]
    is_sampled_NK = ~is_head_NK & (np.arange(meta.k) < n_entries_N[:, None])
    head_NK = np.where(is_head_NK, np.maximum(head_NK, threshold_N[:, None] * ABOVE), 0.0)
    total_N = head_NK.sum(axis=1) + mass_N
    total_N[total_N == 0] = 1.0  # a row without entries

    ids_NK = np.full((n_rows, meta.k), -1, dtype=np.int64)
    ids_NK[is_head_NK] = head_ids_E
    ids_NK[is_sampled_NK] = sampled_ids_E
    weights_NK = np.where(is_sampled_NK, threshold_N[:, None], head_NK) / total_N[:, None]
    return RowArrays(
        kind="sampled",
        ids=ids_NK,
        temperatures=meta.temperatures,
        weights=weights_NK.astype(np.float32),
        threshold=(threshold_N / total_N).astype(np.float32),
    )


def encode_multinomial(rows: RowArrays, meta: StoreMeta) -> dict[str, bytes]:
    """Columns of one sequence. ``rows`` are checked (see ``checks``)."""
    assert rows.weights is not None
    counts_NK = np.rint(np.where(rows.ids >= 0, rows.weights, 0).astype(np.float64) * meta.k).astype(np.int64)
    drawn_NK = counts_NK > 0
    ids_NK, order_NK = _by_id(rows.ids.astype(np.int64), drawn_NK)
    n_drawn_N = drawn_NK.sum(axis=1)
    sorted_counts_NK = np.take_along_axis(counts_NK, order_NK, axis=1)
    return {
        "counts": bits.pack_offset(n_drawn_N),
        "ids_sorted": _pack_gaps(leading(ids_NK, n_drawn_N), n_drawn_N),
        "values": bits.pack_unary(leading(sorted_counts_NK, n_drawn_N) - 1),
    }


def decode_multinomial(columns: dict[str, memoryview], n_rows: int, meta: StoreMeta) -> RowArrays:
    """Rows of one sequence by id; weights are exactly counts / k in float32."""
    n_drawn_N, _ = bits.unpack_offset(columns["counts"], n_rows)
    ids_E = unpack_sorted_ids(columns["ids_sorted"], n_drawn_N)
    extra_E, _ = bits.unpack_unary(columns["values"], int(n_drawn_N.sum()))
    weights_NK = placed((extra_E + 1) / meta.k, n_drawn_N, meta.k, fill=0.0)
    return RowArrays(
        kind="sampled",
        ids=placed(ids_E, n_drawn_N, meta.k, fill=-1),
        temperatures=meta.temperatures,
        weights=weights_NK.astype(np.float32),
    )


def pack_sorted_ids(ids_NK: bits.Ints, chosen_NK: NDArray[Any]) -> bytes:
    """The chosen ids of each row as Rice-coded gaps in ascending order."""
    sorted_NK, _ = _by_id(ids_NK, chosen_NK)
    counts_N = chosen_NK.sum(axis=1)
    return _pack_gaps(leading(sorted_NK, counts_N), counts_N)


def unpack_sorted_ids(blob: memoryview, counts_N: bits.Ints) -> bits.Ints:
    """Inverse of :func:`pack_sorted_ids`: one row after the other."""
    gaps_E, _ = bits.unpack_rice(blob, int(counts_N.sum()))
    return bits.segment_cumsum(gaps_E + 1, counts_N) - 1


def _pack_gaps(ids_E: bits.Ints, counts_N: bits.Ints) -> bytes:
    previous_E = np.where(bits.first_in_segment(counts_N), -1, np.concatenate([[-1], ids_E[:-1]])[: ids_E.size])
    return bits.pack_rice(ids_E - previous_E - 1)


def _by_id(ids_NK: bits.Ints, chosen_NK: NDArray[Any]) -> tuple[bits.Ints, bits.Ints]:
    masked_NK = np.where(chosen_NK, ids_NK, np.iinfo(np.int64).max)
    order_NK = np.argsort(masked_NK, axis=1, kind="stable")
    return np.take_along_axis(masked_NK, order_NK, axis=1), order_NK


def _descending_head(
    ids_NK: bits.Ints,
    weights_NK: NDArray[Any],
    head_NK: NDArray[Any],
) -> tuple[bits.Ints, bits.Ints]:
    """Ids and grid values of the head, by descending weight and ties by lowest id; the head comes first."""
    top_N = np.where(head_NK, weights_NK, 0.0).max(axis=1, initial=0.0)
    top_N = np.where(top_N > 0, top_N, 1.0)
    below_NK = np.log(top_N)[:, None] - np.log(np.where(head_NK, weights_NK, 1.0))
    grid_NK = np.where(head_NK, np.rint(below_NK / STEP_NAT), np.iinfo(np.int32).max).astype(np.int64)
    order_NK = np.lexsort((ids_NK, -weights_NK, grid_NK), axis=1)
    return np.take_along_axis(ids_NK, order_NK, axis=1), np.take_along_axis(grid_NK, order_NK, axis=1)
