"""What rows must satisfy before they are stored: every problem is one sentence that names the field.

Legend: N rows, K support size.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from distill_core.store.meta import StoreMeta
from distill_core.store.rows import RowArrays

SUM_TOLERANCE = 1e-4
"""A row of weights may miss 1 by this much (float32 sums over a vocabulary); it is stored summing to 1."""


def check_rows(rows: RowArrays, meta: StoreMeta, n_positions: int) -> None:
    """Refuse rows that do not fit the store.

    Raises:
        ValueError: naming the field, the row, what was received and what was expected.
    """
    if len(rows) != n_positions:
        raise ValueError(f"rows has {len(rows)} rows for {n_positions} positions; expected one per position")
    if rows.kind != meta.kind:
        raise ValueError(f"rows.kind is {rows.kind!r}; a store of method {meta.method!r} takes {meta.kind!r} rows")
    if tuple(rows.temperatures) != meta.temperatures:
        raise ValueError(f"rows.temperatures is {tuple(rows.temperatures)}; the store has {meta.temperatures}")
    if rows.k > meta.k:
        raise ValueError(f"rows.ids has {rows.k} columns; the store was made for k = {meta.k}")
    _check_ids(rows, meta)
    if meta.kind == "exact":
        _check_exact(rows)
    else:
        _check_sampled(rows, meta)
    for name in ("entropy", "label_logprob"):
        value = getattr(rows, name)
        if value is not None and bool(np.isnan(value).any() | np.isposinf(value).any()):
            raise ValueError(f"rows.{name} holds NaN or +inf at row {_first(np.isnan(value) | np.isposinf(value))}")
    if rows.entropy is not None and bool((rows.entropy < -1e-3).any() | np.isneginf(rows.entropy).any()):
        raise ValueError(f"rows.entropy is negative at row {_first(rows.entropy < -1e-3)}; expected nat, at least 0")


def _check_ids(rows: RowArrays, meta: StoreMeta) -> None:
    if rows.ids.dtype.kind not in "iu":
        raise ValueError(f"rows.ids has dtype {rows.ids.dtype}; expected integers")
    if rows.ids.size == 0:
        return
    low, high = int(rows.ids.min()), int(rows.ids.max())
    if low < -1 or high >= meta.vocabulary_size:
        raise ValueError(
            f"rows.ids holds values from {low} to {high}; expected ids below the vocabulary size "
            f"{meta.vocabulary_size}, and -1 for padding"
        )
    sorted_NK = np.sort(rows.ids, axis=1)
    repeated_N = ((sorted_NK[:, 1:] == sorted_NK[:, :-1]) & (sorted_NK[:, 1:] >= 0)).any(axis=1)
    if bool(repeated_N.any()):
        raise ValueError(f"rows.ids holds an id twice at row {_first(repeated_N)}; ids must be unique in a row")


def _check_exact(rows: RowArrays) -> None:
    if rows.logits is None or rows.tail is None:
        raise ValueError("rows of kind 'exact' need logits and tail")
    logits_NK = np.where(rows.ids >= 0, rows.logits, -np.inf)
    for name, value in (("logits", logits_NK), ("tail", rows.tail)):
        bad_N: Any = (np.isnan(value) | np.isposinf(value)).any(axis=1)
        if bool(bad_N.any()):
            raise ValueError(f"rows.{name} holds NaN or +inf at row {_first(bad_N)}: the teacher's output is broken")
    no_entry_N: Any = ~np.isfinite(logits_NK).any(axis=1)
    empty_N = no_entry_N & ~np.isfinite(rows.tail).all(axis=1)
    if bool(empty_N.any()):
        raise ValueError(f"row {_first(empty_N)} gives probability 0 to the support and to the tail")


def _check_sampled(rows: RowArrays, meta: StoreMeta) -> None:
    if rows.weights is None:
        raise ValueError("rows of kind 'sampled' need weights")
    if rows.entropy is None:
        raise ValueError("rows of kind 'sampled' need the exact entropy: without it the value of a KL is unknown")
    weights_NK = np.where(rows.ids >= 0, rows.weights, 0).astype(np.float64)
    bad_N: Any = ~np.isfinite(weights_NK).all(axis=1) | (weights_NK < 0).any(axis=1)
    if bool(bad_N.any()):
        raise ValueError(f"rows.weights holds NaN, infinite or negative values at row {_first(bad_N)}")
    total_N = weights_NK.sum(axis=1)
    off_N: Any = (np.abs(total_N - 1.0) > SUM_TOLERANCE) & (rows.ids >= 0).any(axis=1)
    if bool(off_N.any()):
        row = _first(off_N)
        raise ValueError(f"rows.weights sums to {total_N[row]:.6g} at row {row}; expected 1")
    if meta.method == "threshold":
        _check_threshold(rows, weights_NK)
    elif rows.threshold is not None:
        raise ValueError("rows.threshold was given to a store of method 'multinomial', which has none")
    else:
        counts_NK = weights_NK * meta.k
        if bool((np.abs(counts_NK - np.rint(counts_NK)) > 1e-2).any()):
            raise ValueError(f"rows.weights are not multiples of 1/k = 1/{meta.k}; expected counts / k")


def _check_threshold(rows: RowArrays, weights_NK: NDArray[np.float64]) -> None:
    if rows.threshold is None:
        raise ValueError("rows for a store of method 'threshold' need threshold, the c of each row")
    if bool((~np.isfinite(rows.threshold) | (rows.threshold < 0)).any()):
        raise ValueError("rows.threshold holds NaN, infinite or negative values")
    threshold_N1 = rows.threshold.astype(np.float64)[:, None]
    wrong_N: Any = ((weights_NK > 0) & (weights_NK < threshold_N1 * (1 - 1e-5))).any(axis=1)
    if bool(wrong_N.any()):
        row = _first(wrong_N)
        raise ValueError(
            f"rows.weights has entries below the threshold {float(threshold_N1[row, 0]):.6g} at row {row}; "
            "expected max(p, c) for every kept entry"
        )


def _first(mask_N: Any) -> int:
    return int(np.argmax(mask_N))
