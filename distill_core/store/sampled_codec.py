"""Sampled rows (threshold and multinomial) as bytes and back.

Legend: N rows, K support size, E entries of all rows one after the other.

*Threshold*: entries with p > c (the head) keep their probability: log-odds to the largest on a grid, as in
``topk_codec``; every other entry weighs c and is an id alone, coded as the gap to the next lower one, in groups by how
many of the row are to come: small ids are common, so gaps grow. The weight of all of those together, S c, is stored as
log-odds to the largest; c follows, and so does the largest: rows sum to 1.

*Multinomial*: weights are counts / k. Counts are stored exactly, in unary (k bits per row), ids as gaps.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from distill_core.store import bits
from distill_core.store.coding import Codec, active, finished
from distill_core.store.meta import STEP_NAT, StoreMeta
from distill_core.store.rows import RowArrays
from distill_core.store.topk_codec import (
    FLOOR_NAT,
    IMPOSSIBLE,
    in_vocabulary,
    leading,
    pack_descending,
    placed,
    unpack_counts,
    unpack_descending,
    unpack_ids,
)

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
    codec = active()
    sorted_NK, _ = _by_id(rows.ids.astype(np.int64), sampled_NK)
    return {
        "counts": codec.pack_offset(n_head_N + n_sampled_N) + codec.pack_offset(n_head_N),
        "ids": codec.pack_octaves(leading(head_ids_NK, n_head_N)),
        "ids_sorted": pack_sorted_ids(codec, leading(sorted_NK, n_sampled_N), n_sampled_N),
        "values": pack_descending(codec, leading(grid_NK, n_head_N), n_head_N),
        "tail": codec.pack_offset(tail_N),
    }


def decode_threshold(columns: dict[str, memoryview], n_rows: int, meta: StoreMeta) -> RowArrays:
    """Rows of one sequence: head by descending weight, then the entries of weight c by id."""
    codec = active()
    n_entries_N, n_head_N = unpack_counts(codec, columns["counts"], n_rows, meta.k)
    n_sampled_N = n_entries_N - n_head_N
    head_ids_E = unpack_ids(codec, columns["ids"], n_head_N, meta)
    sampled_ids_E = unpack_sorted_ids(codec, columns["ids_sorted"], n_sampled_N, meta)
    grid_E = unpack_descending(codec, columns["values"], n_head_N)
    tail_N, rest = codec.unpack_offset(columns["tail"], n_rows)
    finished(rest, "tail")
    if int(tail_N.max(initial=0)) * STEP_NAT > FLOOR_NAT:
        raise ValueError(f"column 'tail' holds log-odds of {int(tail_N.max()) * STEP_NAT:.6g} nat")

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
    codec = active()
    return {
        "counts": codec.pack_offset(n_drawn_N),
        "ids_sorted": pack_sorted_ids(codec, leading(ids_NK, n_drawn_N), n_drawn_N),
        "values": codec.pack_unary(leading(sorted_counts_NK, n_drawn_N) - 1),
    }


def decode_multinomial(columns: dict[str, memoryview], n_rows: int, meta: StoreMeta) -> RowArrays:
    """Rows of one sequence by id; weights are exactly counts / k in float32."""
    codec = active()
    n_drawn_N, rest = codec.unpack_offset(columns["counts"], n_rows)
    finished(rest, "counts")
    low, high = int(n_drawn_N.min(initial=0)), int(n_drawn_N.max(initial=0))
    if low < 0 or high > meta.k:
        raise ValueError(f"column 'counts' tells of {low} to {high} entries in a row; expected 0 to k = {meta.k}")
    ids_E = unpack_sorted_ids(codec, columns["ids_sorted"], n_drawn_N, meta)
    extra_E, rest = codec.unpack_unary(columns["values"], int(n_drawn_N.sum()))
    finished(rest, "values")
    weights_NK = placed((extra_E + 1) / meta.k, n_drawn_N, meta.k, fill=0.0)
    return RowArrays(
        kind="sampled",
        ids=placed(ids_E, n_drawn_N, meta.k, fill=-1),
        temperatures=meta.temperatures,
        weights=weights_NK.astype(np.float32),
    )


def pack_sorted_ids(codec: Codec, ids_E: bits.Ints, counts_N: bits.Ints) -> bytes:
    """Ids that ascend in each row, as Rice-coded gaps, in groups by how many are to come."""
    rank_E = bits.rank_in_segment(counts_N)
    previous_E = np.where(rank_E == 0, -1, np.concatenate([[-1], ids_E[:-1]])[: ids_E.size])
    return codec.pack_by_rank(ids_E - previous_E - 1, np.repeat(counts_N, counts_N) - rank_E)


def unpack_sorted_ids(codec: Codec, blob: memoryview, counts_N: bits.Ints, meta: StoreMeta) -> bits.Ints:
    """Inverse of :func:`pack_sorted_ids`: one row after the other."""
    to_come_E = np.repeat(counts_N, counts_N) - bits.rank_in_segment(counts_N)
    gaps_E, rest = codec.unpack_by_rank(blob, to_come_E)
    finished(rest, "ids_sorted")
    if int(gaps_E.max(initial=0)) >= meta.vocabulary_size:
        raise ValueError(f"ids {int(gaps_E.max())} apart in a vocabulary of {meta.vocabulary_size}")
    return in_vocabulary(bits.segment_cumsum(gaps_E + 1, counts_N) - 1, meta)


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
