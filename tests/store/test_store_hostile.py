"""Bytes that no writer wrote end in a ValueError or in rows that fit the store, never in anything else."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from distill_core.store import RowArrays, StoreMeta, coding
from distill_core.store.columns import (
    check_lengths,
    decode_positions,
    decode_rows,
    encode_positions,
    encode_rows,
    encode_tokens,
)

V, K, N = 300, 6, 9
quiet = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=200)


def fits(rows: RowArrays) -> bool:
    values = rows.logits if rows.logits is not None else rows.weights
    assert values is not None
    return len(rows) == N and rows.k == K and bool((rows.ids < V).all()) and not bool(np.isnan(values).any())


def damaged_ways(blob: bytes, data: st.DataObject) -> bytes:
    """Cut short, made longer, or with a byte changed."""
    way = data.draw(st.sampled_from(["cut", "longer", "changed", "other"]))
    if way == "cut":
        return blob[: data.draw(st.integers(0, max(len(blob) - 1, 0)))]
    if way == "longer":
        return blob + data.draw(st.binary(min_size=1, max_size=9))
    if way == "changed" and blob:
        changed = bytearray(blob)
        changed[data.draw(st.integers(0, len(blob) - 1))] ^= data.draw(st.integers(1, 255))
        return bytes(changed)
    return data.draw(st.binary(max_size=60))


@quiet
@given(method=st.sampled_from(["topk", "threshold", "multinomial"]), seed=st.integers(0, 999), data=st.data())
def test_a_damaged_column(
    make_rows: dict[str, Callable[..., RowArrays]],
    meta_for: Callable[..., StoreMeta],
    method: str,
    seed: int,
    data: st.DataObject,
) -> None:
    meta = meta_for(method=method, vocabulary_size=V, k=K)
    rows = make_rows[method](np.random.default_rng(seed).normal(size=(N, V)) * 4, K)
    columns = encode_rows([rows], meta)
    name = data.draw(st.sampled_from([name for name, blob in columns.items() if blob is not None]))
    columns[name] = damaged_ways(columns[name] or b"", data)
    views = {name: None if blob is None else memoryview(blob) for name, blob in columns.items()}
    with coding.using("numpy"):
        try:
            assert fits(decode_rows(views, N, meta, 0))
        except ValueError as error:
            assert str(error)


@pytest.mark.parametrize("method", ["topk", "threshold", "multinomial"])
def test_a_column_cut_short_or_longer_is_noticed(
    make_rows: dict[str, Callable[..., RowArrays]], meta_for: Callable[..., StoreMeta], method: str
) -> None:
    meta = meta_for(method=method, vocabulary_size=V, k=K)
    rows = make_rows[method](np.random.default_rng(1).normal(size=(N, V)) * 4, K)
    whole = {name: blob for name, blob in encode_rows([rows], meta).items() if blob is not None}
    with coding.using("numpy"):
        for name, blob in whole.items():
            for broken in [blob[:length] for length in range(len(blob))] + [blob + b"\0", blob + b"\xff"]:
                views = {other: memoryview(broken if other == name else b) for other, b in whole.items()}
                with pytest.raises(ValueError, match=r"."):
                    decode_rows({"entropy": None, "label": None, **views}, N, meta, 0)


def test_counts_beyond_k_take_no_memory(meta_for: Callable[..., StoreMeta]) -> None:
    meta = meta_for(k=4)
    endless = coding.NUMPY.pack_offset(np.array([2**31 - 1])) * 2
    views = {name: memoryview(b"") for name in ("ids", "values", "tail", "entropy", "label")}
    with pytest.raises(ValueError, match="2147483647 entries in a row; expected 0 to k = 4"):
        decode_rows({"counts": memoryview(endless), **views}, 1, meta, 0)


def test_stated_lengths_are_compared_with_the_bytes(meta_for: Callable[..., StoreMeta]) -> None:
    for vocabulary_size in (1, 50, 1 << 32):
        blob = memoryview(encode_tokens(np.zeros(20, dtype=np.uint32), meta_for(vocabulary_size=vocabulary_size, k=1)))
        check_lengths({"tokens": blob}, 20, 20)
        for n_tokens, n_rows, found in ((2**32 - 1, 3, blob), (20, 21, blob), (20, 3, blob[:-1]), (1, 1, None)):
            with pytest.raises(ValueError, match="stated"):
                check_lengths({"tokens": found}, n_tokens, n_rows)


@quiet
@given(positions=st.sets(st.integers(0, 40)), data=st.data())
def test_damaged_positions(positions: set[int], data: st.DataObject) -> None:
    blob = damaged_ways(encode_positions(np.array(sorted(positions), dtype=np.int64), 41), data)
    try:
        found = decode_positions(memoryview(blob), 41)
    except ValueError:
        return
    assert found.size == 0 or (found[0] >= 0 and found[-1] < 41 and bool((np.diff(found) > 0).all()))
