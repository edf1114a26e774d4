"""The stated error holds for every log p, the log tail and log(1 - p_max), whatever the row looks like."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from distill_core.store import RowArrays, StoreMeta
from distill_core.store.columns import decode_rows, encode_rows
from distill_core.store.meta import ENTROPY_STEP_NAT, ERROR_NAT, STEP_NAT

V = 31
FLOAT32_NAT = 5e-5
"""Rounding of float32 logits down to -700."""

TINY = 1e-30
"""Weights below it are near the end of float32, in which weights are handed over."""

PECULIAR = {
    "peaked 1 - 1e-8": np.concatenate([[0.0], np.full(V - 1, np.log(1e-8 / (V - 1)))]),
    "peaked 1 - 1e-12": np.concatenate([[0.0], np.full(V - 1, np.log(1e-12 / (V - 1)))]),
    "two peaks, tail 1e-8": np.concatenate([[0.0, -0.3], np.full(V - 2, np.log(1e-8 / (V - 2)))]),
    "flat": np.zeros(V),
    "ties in steps": np.repeat([3.0, 1.0, 1.0, -5.0], 8)[:V],
    "p exactly 0": np.concatenate([[1.0, 0.5, 0.2], np.full(V - 3, -np.inf)]),
    "one possible": np.concatenate([np.full(V - 1, -np.inf), [2.0]]),
    "tiny": np.concatenate([[0.0, -80.0, -200.0], np.full(V - 3, -600.0)]),
    "masked with the smallest float32": np.concatenate([[0.0, -1.0], np.full(V - 2, float(np.finfo("f4").min))]),
}

rows_strategy = st.one_of(
    st.sampled_from(sorted(PECULIAR)).map(lambda name: PECULIAR[name]),
    st.tuples(st.integers(0, 2**32 - 1), st.floats(0.001, 40.0)).map(
        lambda drawn: np.random.default_rng(drawn[0]).normal(size=V) * drawn[1]
    ),
)
logits_strategy = st.lists(rows_strategy, min_size=1, max_size=6).map(np.stack)
quiet = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=150)


def coded(rows: RowArrays, meta: StoreMeta) -> RowArrays:
    columns = {name: None if blob is None else memoryview(blob) for name, blob in encode_rows([rows], meta).items()}
    return decode_rows(columns, len(rows), meta, 0)


def by_id(rows: RowArrays, values: np.ndarray) -> np.ndarray:
    """[N, V] values at their ids, NaN elsewhere."""
    dense = np.full((len(rows), V), np.nan)
    for n in range(len(rows)):
        kept = rows.ids[n] >= 0
        dense[n, rows.ids[n][kept]] = values[n][kept]
    return dense


def worst(expected: np.ndarray, found: np.ndarray) -> float:
    """Largest difference of two log arrays; -inf must meet -inf, or a probability below 1e-300."""
    assert np.array_equal(np.isnan(expected), np.isnan(found))
    expected = np.where(expected < -690, -np.inf, expected)
    found = np.where(found < -690, -np.inf, found)
    assert np.array_equal(np.isneginf(expected), np.isneginf(found))
    finite = np.isfinite(expected)
    return float(np.abs(expected[finite] - found[finite]).max(initial=0.0))


@quiet
@given(logits=logits_strategy, k=st.integers(0, V), temperatures=st.sampled_from([(1.0,), (2.0, 1.0, 5.0), (0.5,)]))
def test_topk_bound_at_every_captured_temperature(
    make_rows: dict[str, Callable[..., RowArrays]],
    meta_for: Callable[..., StoreMeta],
    logits: np.ndarray,
    k: int,
    temperatures: tuple[float, ...],
) -> None:
    rows = make_rows["topk"](logits, k, temperatures=temperatures)
    found = coded(rows, meta_for(vocabulary_size=V, k=k, temperatures=temperatures))
    assert found.logits is not None and found.tail is not None
    for temperature in temperatures:
        expected_logp, expected_tail = rows.log_probs(temperature)
        logp, tail = found.log_probs(temperature)
        assert worst(by_id(rows, expected_logp), by_id(found, logp)) <= ERROR_NAT + FLOAT32_NAT
        assert worst(expected_tail, tail) <= ERROR_NAT + FLOAT32_NAT
        both_expected = np.concatenate([expected_logp, expected_tail[:, None]], axis=1)
        both = np.concatenate([logp, tail[:, None]], axis=1)
        assert np.abs(np.exp(both).sum(axis=1) - 1).max() < 1e-6
        assert worst(log_rest(both_expected), log_rest(both)) <= ERROR_NAT + FLOAT32_NAT
    first = found.logits.astype(np.float64) / temperatures[0]
    total = np.exp(first).sum(axis=1) + np.exp(found.tail[:, 0].astype(np.float64))
    assert np.abs(total - 1).max() < 1e-6, "logits must be T0 log p at the first temperature"


def log_rest(logp: np.ndarray) -> np.ndarray:
    """log(1 - p_max) as the sum of the others, which float64 holds however small it is."""
    others = np.sort(logp, axis=1)[:, :-1]
    with np.errstate(divide="ignore"):
        return np.log(np.exp(others).sum(axis=1))


@quiet
@given(logits=logits_strategy, k=st.integers(1, V), seed=st.integers(0, 99), single=st.booleans())
def test_threshold_bound_and_head(
    make_rows: dict[str, Callable[..., RowArrays]],
    meta_for: Callable[..., StoreMeta],
    logits: np.ndarray,
    k: int,
    seed: int,
    single: bool,
) -> None:
    rows = make_rows["threshold"](logits, k, seed=seed)
    assert rows.weights is not None and rows.threshold is not None
    if single:  # what a float32 engine hands over
        rows = RowArrays(
            **{**rows.__dict__, "weights": rows.weights.astype("f4"), "threshold": rows.threshold.astype("f4")}
        )
    assert rows.weights is not None and rows.threshold is not None
    found = coded(rows, meta_for(vocabulary_size=V, k=k, method="threshold"))
    assert found.weights is not None and found.threshold is not None and found.entropy is not None
    expected = np.nan_to_num(by_id(rows, rows.weights.astype(np.float64)))
    decoded = np.nan_to_num(by_id(found, found.weights.astype(np.float64)))
    seen = (expected > TINY) | (decoded > 2 * TINY)
    assert np.abs(np.log(expected[seen]) - np.log(decoded[seen])).max() <= ERROR_NAT + 2e-6
    assert np.abs(decoded.sum(axis=1) - 1).max() < 1e-6
    expected_rest, rest = np.sort(expected, axis=1)[:, :-1].sum(axis=1), np.sort(decoded, axis=1)[:, :-1].sum(axis=1)
    held = expected_rest > TINY
    assert np.abs(np.log(expected_rest[held]) - np.log(rest[held])).max(initial=0) <= ERROR_NAT + 2e-6
    is_head = (rows.weights > rows.threshold[:, None]) & (rows.ids >= 0)
    found_head = (found.weights > found.threshold[:, None]) & (found.ids >= 0)
    told, found_told = by_id(rows, is_head) == 1, by_id(found, found_head) == 1
    assert np.array_equal(told[seen], found_told[seen]), "the head is told by weight > threshold"
    sampled = ~found_head & (found.ids >= 0) & (found.weights > TINY)
    assert np.array_equal(found.weights[sampled], np.broadcast_to(found.threshold[:, None], sampled.shape)[sampled])
    assert rows.entropy is not None
    assert np.abs(found.entropy - rows.entropy).max() <= ENTROPY_STEP_NAT / 2 + 1e-6


@quiet
@given(logits=logits_strategy, k=st.integers(1, 60), seed=st.integers(0, 99))
def test_multinomial_counts_are_exact(
    make_rows: dict[str, Callable[..., RowArrays]],
    meta_for: Callable[..., StoreMeta],
    logits: np.ndarray,
    k: int,
    seed: int,
) -> None:
    rows = make_rows["multinomial"](logits, k, seed=seed)
    found = coded(rows, meta_for(vocabulary_size=V, k=k, method="multinomial"))
    assert rows.weights is not None and found.weights is not None
    expected, decoded = by_id(rows, rows.weights.astype("f4")), by_id(found, found.weights)
    assert np.array_equal(expected, decoded, equal_nan=True)
    assert found.threshold is None


def test_order_is_by_value_then_id(
    make_rows: dict[str, Callable[..., RowArrays]], meta_for: Callable[..., StoreMeta]
) -> None:
    logits = np.array([[0.0, 2.0, 2.0, 1.0]])
    rows = make_rows["topk"](logits, 3)
    shuffled = RowArrays(**{**rows.__dict__, "ids": rows.ids[:, [2, 1, 0]], "logits": rows.logits[:, [2, 1, 0]]})
    found = coded(shuffled, meta_for(vocabulary_size=4, k=3))
    assert found.ids.tolist() == [[1, 2, 3]]


def test_ragged_rows_pad_with_minus_one(meta_for: Callable[..., StoreMeta]) -> None:
    ids = np.array([[5, -1, 7], [-1, -1, -1], [1, 2, 3]])
    logits = np.array([[0.5, 99.0, 1.5], [np.nan, 0.0, 0.0], [0.0, 0.0, 0.0]])
    rows = RowArrays(
        kind="exact", ids=ids, temperatures=(1.0,), logits=logits, tail=np.array([[0.0], [2.0], [-np.inf]])
    )
    found = coded(rows, meta_for(k=5))
    assert found.ids.tolist() == [[7, 5, -1, -1, -1], [-1] * 5, [1, 2, 3, -1, -1]]
    logp, tail = found.log_probs()
    assert np.isneginf(logp[1]).all() and tail[1] == 0.0
    assert np.isneginf(tail[2]) and np.allclose(logp[2, :3], np.log(1 / 3))


@quiet
@given(
    method=st.sampled_from(["topk", "threshold", "multinomial"]),
    vocabulary_size=st.integers(1, 1 << 32),
    widths=st.lists(st.integers(0, 20), max_size=8),
    seed=st.integers(0, 2**32 - 1),
)
def test_ids_are_exact_in_any_vocabulary(
    meta_for: Callable[..., StoreMeta], method: str, vocabulary_size: int, widths: list[int], seed: int
) -> None:
    """Rows of any number of entries, none included, over log-uniform ids."""
    generator = np.random.default_rng(seed)
    k = min(20, vocabulary_size)
    ids = np.full((len(widths), k), -1, dtype=np.int64)
    for row, width in enumerate(widths):
        drawn = np.exp(generator.uniform(0, np.log(vocabulary_size + 0.5), size=width)).astype(np.int64) - 1
        drawn = generator.permutation(np.unique(drawn.clip(0, vocabulary_size - 1)))[:k]
        ids[row, : drawn.size] = drawn
    n_N = (ids >= 0).sum(axis=1)
    fields = {"weights": np.where(ids >= 0, 1 / np.maximum(n_N, 1)[:, None], 0.0), "entropy": np.ones(len(widths))}
    if method == "topk":
        fields = {"logits": generator.normal(size=ids.shape) * 9, "tail": generator.normal(size=(len(widths), 1))}
    elif method == "threshold":
        fields["threshold"] = np.where(generator.random(len(widths)) < 0.5, 0.0, fields["weights"].max(axis=1))
    else:
        fields["weights"] = np.where(ids >= 0, 1.0, 0.0) / 20
    rows = RowArrays(kind="exact" if method == "topk" else "sampled", ids=ids, temperatures=(1.0,), **fields)
    meta = meta_for(method=method, vocabulary_size=vocabulary_size, k=20 if method == "multinomial" else k)
    found = coded(rows, meta)
    assert [sorted(row[row >= 0].tolist()) for row in found.ids] == [sorted(row[row >= 0].tolist()) for row in ids]
    if method == "topk":
        assert rows.logits is not None
        order = np.argsort(np.where(ids >= 0, -rows.logits, np.inf), axis=1, kind="stable")
        assert np.array_equal(found.ids, np.take_along_axis(ids, order, axis=1)), "by descending logit"


@pytest.mark.parametrize("vocabulary_size", [1 << 32, (1 << 31) + 7, 1, 2])
def test_extreme_vocabularies(meta_for: Callable[..., StoreMeta], vocabulary_size: int) -> None:
    rows = RowArrays(
        kind="exact",
        ids=np.array([[vocabulary_size - 1]]),
        temperatures=(1.0,),
        logits=np.array([[0.0]]),
        tail=np.array([[0.0 if vocabulary_size > 1 else -np.inf]]),
    )
    assert coded(rows, meta_for(vocabulary_size=vocabulary_size, k=1)).ids[0, 0] == vocabulary_size - 1


def test_the_worst_row_reaches_the_bound_and_no_more(meta_for: Callable[..., StoreMeta]) -> None:
    """All mass is rounded one way, one entry the other: the error is nearly a whole step."""
    below = np.concatenate([[0.0], np.full(28, 0.51), [2.49]]) * STEP_NAT
    rows = RowArrays(
        kind="exact", ids=np.arange(30)[None], temperatures=(1.0,), logits=-below[None], tail=np.array([[-np.inf]])
    )
    found = coded(rows, meta_for(k=30))
    error = np.abs(by_id(rows, rows.log_probs()[0]) - by_id(found, found.log_probs()[0]))
    assert 0.9 * ERROR_NAT < np.nanmax(error) <= ERROR_NAT <= 0.01


def test_a_head_entry_just_above_c_stays_above(meta_for: Callable[..., StoreMeta]) -> None:
    top = np.linspace(0.3, 0.9, 301)
    c = (1 - top) / 3.0003
    weights = np.stack([top, 1.0003 * c, c, c], axis=1)
    rows = RowArrays(
        kind="sampled",
        ids=np.tile(np.array([9, 4, 2, 7]), (301, 1)),
        temperatures=(1.0,),
        weights=weights.astype(np.float32),
        threshold=c.astype(np.float32),
        entropy=np.ones(301),
    )
    found = coded(rows, meta_for(method="threshold"))
    assert found.weights is not None and found.threshold is not None
    assert found.ids.tolist() == [[9, 4, 2, 7]] * 301
    assert ((found.weights > found.threshold[:, None]) == np.array([True, True, False, False])).all()
    assert np.abs(np.log(found.weights / weights)).max() <= ERROR_NAT + 2e-6
    assert np.abs(found.weights.sum(axis=1, dtype=np.float64) - 1).max() < 1e-6


def test_the_largest_of_a_peaked_row_keeps_its_digits(
    meta_for: Callable[..., StoreMeta], through_store: Callable[..., RowArrays]
) -> None:
    """log p_max near 0 is minus the sum of what is left: the log of 1 + that, in fp64, loses all of it."""
    rows = RowArrays("exact", np.array([[3, 1]]), (1.0,), logits=np.array([[0.0, -35.0]]), tail=np.array([[-36.0]]))
    found = through_store(rows, meta_for(k=2))
    assert found.logits is not None
    np.testing.assert_allclose(found.logits[0, 0], -(np.exp(-35.0) + np.exp(-36.0)), rtol=1e-6)
