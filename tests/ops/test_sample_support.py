"""`sample_support`: exact counts and sums, unbiasedness, and independence of how the work is cut."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from distill_core import ops
from distill_core.ops.sample_support.counter_random import mix, uniform

inf = math.inf
METHODS = ("threshold", "multinomial")
every_impl = pytest.mark.parametrize("impl", ["reference", "cpu"])


def exact(impl):
    """fp64 stays with the reference."""
    return torch.float64 if impl == "reference" else torch.float32


def solve_threshold(p, k):
    """c with sum min(1, p / c) = k by bisection, in fp64."""
    low, high = 0.0, 1.0
    for _ in range(200):
        c = (low + high) / 2
        low, high = (c, high) if (p / c).clamp_max(1).sum() > k else (low, c)
    return (low + high) / 2


@every_impl
@settings(max_examples=60, deadline=None)
@given(
    v=st.integers(1, 60),
    data=st.data(),
    spread=st.sampled_from([0.0, 1.0, 5.0, 30.0, 2000.0]),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
)
def test_threshold_keeps_k_entries_whose_weights_sum_to_one(impl, v, data, spread, dtype):
    if impl == "cpu" and dtype == torch.float64:
        dtype = torch.float16
    k = data.draw(st.integers(1, v))
    g = torch.Generator().manual_seed(data.draw(st.integers(0, 10**6)))
    z = (torch.randn(4, v, generator=g) * spread).to(dtype)
    possible = data.draw(st.integers(1, v))
    z[:, possible:] = -inf
    ids, w = ops.sample_support(z, k, seed=data.draw(st.integers(-(2**70), 2**70)), impl=impl)
    assert ids.dtype == torch.int64 and w.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    real = ids >= 0
    assert (real.sum(1) == min(k, possible)).all()
    assert (ids < possible).all()
    assert ((w == 0) | real).all() and (w >= 0).all()
    torch.testing.assert_close(w.double().sum(1), torch.ones(4, dtype=torch.float64), rtol=0, atol=1e-6)
    for row in range(4):
        assert len(set(ids[row][real[row]].tolist())) == int(real[row].sum())


@every_impl
def test_threshold_weights_are_max_of_p_and_c(impl):
    z = torch.randn(8, 200, dtype=exact(impl)) * 5
    ids, w = ops.sample_support(z, 12, temperature=1.5, impl=impl)
    p = torch.softmax(z.double() / 1.5, 1)
    rtol = 1e-9 if impl == "reference" else 1.2e-7  # the kernel's weights are rounded to fp32
    for row in range(8):
        c = solve_threshold(p[row], 12)
        torch.testing.assert_close(w[row].double(), p[row][ids[row]].clamp_min(c), rtol=rtol, atol=1e-12)
        heavy = p[row] > c
        h = int(heavy.sum())
        assert 0 < h < 12
        assert set(ids[row][:h].tolist()) == set(heavy.nonzero().flatten().tolist())
        assert (w[row][: h - 1] >= w[row][1:h]).all()
        assert (w[row][h:] == w[row][h]).all()
        assert (ids[row][h:].diff() > 0).all()


@pytest.mark.parametrize("k", [1, 3, 6, 11])
@pytest.mark.parametrize("method", METHODS)
@every_impl
def test_unbiased_at_every_entry(method, k, impl):
    """Mean weight over 20,000 keys equals p within 4.5 standard errors (12 entries x 8 cases: 1 in 1,500 by chance)."""
    z = torch.tensor([2.0, 1.5, 1.0, 0.0, 0.0, -0.5, -1.0, -1.0, -2.0, -3.0, -5.0, -inf], dtype=exact(impl))
    n = 20_000
    ids, w = ops.sample_support(z.expand(n, 12), k, method=method, seed=11, impl=impl)
    full = torch.zeros(n, 13, dtype=torch.float64).scatter_add(1, torch.where(ids < 0, 12, ids), w.double())[:, :12]
    p = torch.softmax(z.double(), 0)
    error = (full.mean(0) - p).abs()
    assert error[11] == 0.0
    assert (error <= 4.5 * full.std(0) / n**0.5 + (1e-12 if impl == "reference" else 6e-8)).all()
    # and not because the bound is loose: shifting p by 2 % of its largest entry is noticed
    shifted = p + 0.02 * p.max()
    assert ((full.mean(0) - shifted).abs() > 4.5 * full.std(0) / n**0.5).any()


def test_unbiased_over_seeds_and_for_pairs_of_rows():
    """Seeds vary instead of keys; two keys under one seed are uncorrelated."""
    z = torch.randn(2, 9, dtype=torch.float64)
    p = torch.softmax(z, 1)
    draws = []
    for seed in range(1500):
        ids, w = ops.sample_support(z, 3, seed=seed, row_keys_N=torch.tensor([5, 6]))
        draws.append(torch.zeros(2, 9, dtype=torch.float64).scatter(1, ids, w))
    full = torch.stack(draws)
    assert ((full.mean(0) - p).abs() <= 4.5 * full.std(0) / 1500**0.5 + 1e-12).all()
    a, b = full[:, 0] - full[:, 0].mean(0), full[:, 1] - full[:, 1].mean(0)
    spread = a.std(0)[:, None] * b.std(0)[None]
    correlation = (a.T @ b / 1500) / spread.clamp_min(1e-9)
    assert correlation.abs().max() < 4.5 / 1500**0.5 + 1e-3


def test_threshold_has_less_variance_than_multinomial():
    z = torch.randn(1, 300, dtype=torch.float64) * 2
    p = torch.softmax(z, 1)

    def mean_square(method):
        ids, w = ops.sample_support(z.expand(3000, 300), 12, method=method)
        full = torch.zeros(3000, 301, dtype=torch.float64).scatter_add(1, torch.where(ids < 0, 300, ids), w)[:, :300]
        return ((full - p) ** 2).sum(1).mean()

    assert mean_square("threshold") < 0.5 * mean_square("multinomial")


@pytest.mark.parametrize("method", METHODS)
@every_impl
def test_rows_depend_on_seed_and_key_alone(method, impl, monkeypatch):
    z = torch.randn(41, 700) * 3
    keys = torch.randint(-(2**63), 2**63 - 1, (41,))
    ids, w = ops.sample_support(z, 8, method=method, seed=5, impl=impl, row_keys_N=keys)
    order = torch.randperm(41)
    ids_b, w_b = ops.sample_support(z[order], 8, method=method, seed=5, impl=impl, row_keys_N=keys[order])
    assert torch.equal(ids_b, ids[order]) and torch.equal(w_b, w[order])
    for row in (0, 17, 40):
        one = ops.sample_support(z[row : row + 1], 8, method=method, seed=5, impl=impl, row_keys_N=keys[row : row + 1])
        assert torch.equal(one[0][0], ids[row]) and torch.equal(one[1][0], w[row])
    monkeypatch.setattr("distill_core.ops.row_chunks.MAX_ROWS", 3)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        cut = ops.sample_support(z, 8, method=method, seed=5, impl=impl, row_keys_N=keys)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(cut[0], ids) and torch.equal(cut[1], w)
    assert not torch.equal(ops.sample_support(z, 8, method=method, seed=6, impl=impl, row_keys_N=keys)[0], ids)
    assert not torch.equal(ops.sample_support(z, 8, method=method, seed=5, impl=impl, row_keys_N=keys + 1)[0], ids)


@every_impl
def test_single_long_row_equals_the_same_row_among_many(impl):
    """torch splits a sum over one long row between threads; running sums do not change their order."""
    z = torch.randn(16, 49152, dtype=exact(impl)) * 2
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        many = ops.sample_support(z, 12, impl=impl)
        for row in range(16):
            one = ops.sample_support(z[row : row + 1], 12, row_keys_N=torch.tensor([row]), impl=impl)
            assert torch.equal(one[0][0], many[0][row]) and torch.equal(one[1][0], many[1][row])
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("method", METHODS)
@every_impl
def test_valid_vocabulary_and_default_keys(method, impl):
    z = torch.randn(6, 30)
    z[:, 20:] = 40.0
    ids, w = ops.sample_support(z, 5, method=method, impl=impl, valid_vocab=20)
    same = ops.sample_support(
        z[:, :20].contiguous(), 5, method=method, impl=impl, row_keys_N=torch.arange(6, dtype=torch.int32)
    )
    assert (ids < 20).all()
    assert torch.equal(ids, same[0]) and torch.equal(w, same[1])


@pytest.mark.parametrize("method", METHODS)
@every_impl
def test_hostile_rows(method, impl):
    z = torch.tensor([[-inf] * 5, [0.0, -inf, -inf, -inf, -inf], [1e4, -1e4, 0.0, 0.0, 1.0], [7.0] * 5])
    ids, w = ops.sample_support(z, 3, method=method, impl=impl)
    assert ids[0].tolist() == [-1, -1, -1] and w[0].tolist() == [0, 0, 0]
    assert ids[1].tolist() == [0, -1, -1] and w[1].tolist() == [1, 0, 0]
    assert ids[2, 0] == 0 and w[2, 0] == 1.0
    if method == "threshold":
        assert (ids[2] >= 0).all() and w[3].tolist() == pytest.approx([1 / 3] * 3)
    assert not w.isnan().any()


@pytest.mark.parametrize("method", METHODS)
@every_impl
def test_rows_without_a_distribution(method, impl):
    z = torch.randn(4, 9)
    z[0, 5], z[1, 2], z[1, 3] = math.nan, inf, math.nan
    z[3] = -math.nan
    ids, w = ops.sample_support(z, 3, method=method, impl=impl)
    assert ids[[0, 1, 3]].tolist() == [[5, -1, -1], [2, -1, -1], [0, -1, -1]]
    assert w[[0, 1, 3], 0].isnan().all() and (w[[0, 1, 3], 1:] == 0).all()
    clean = ops.sample_support(z[2:3], 3, method=method, impl=impl, row_keys_N=torch.tensor([2]))
    assert torch.equal(ids[2], clean[0][0]) and torch.equal(w[2], clean[1][0])


@pytest.mark.parametrize("method", METHODS)
@every_impl
def test_no_rows_and_no_entries(method, impl):
    ids, w = ops.sample_support(torch.zeros(0, 9), 3, method=method, impl=impl)
    assert ids.shape == w.shape == (0, 3)
    ids, w = ops.sample_support(torch.zeros(2, 9), 0, method=method, impl=impl)
    assert ids.shape == w.shape == (2, 0)


@pytest.mark.parametrize("method", METHODS)
@every_impl
def test_more_entries_than_the_vocabulary_leave_padding(method, impl):
    z = torch.randn(3, 4)
    ids, w = ops.sample_support(z, 6, method=method, impl=impl)
    assert ids.shape == (3, 6) and (ids[:, 4:] == -1).all() and (w[:, 4:] == 0).all()
    torch.testing.assert_close(w.sum(1), torch.ones(3))
    if method == "threshold":
        torch.testing.assert_close(w[:, :4], torch.softmax(z, 1).gather(1, ids[:, :4]))
    ids, w = ops.sample_support(z, 2, method=method, impl=impl, valid_vocab=0)
    assert (ids == -1).all() and (w == 0).all()


@every_impl
def test_multinomial_weights_are_counts(impl):
    ids, w = ops.sample_support(torch.randn(50, 6), 20, method="multinomial", impl=impl)
    counts = w * 20
    torch.testing.assert_close(counts, counts.round())
    assert (counts.sum(1) == 20).all()
    for row, row_w in zip(ids, w, strict=True):
        real = row[row >= 0]
        assert (real.diff() > 0).all() and (row_w[: len(real)] > 0).all() and (row_w[len(real) :] == 0).all()


def test_counter_random_numbers():
    """SplitMix64's published first outputs for seed 0, uniform moments, no repeats among neighbouring keys."""
    golden = 0x9E3779B97F4A7C15
    first = mix(torch.tensor([(golden * i) % 2**64 - 2**64 * ((golden * i) % 2**64 >= 2**63) for i in (1, 2, 3)]))
    want = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    assert [x % 2**64 for x in first.tolist()] == want
    u = uniform(0, torch.arange(20_000), 4)
    assert u.shape == (20_000, 4) and (u >= 0).all() and (u < 1).all()
    assert (u.mean(0) - 0.5).abs().max() < 4.5 * (1 / 12 / 20_000) ** 0.5
    assert (u.var(0) - 1 / 12).abs().max() < 0.003
    assert torch.corrcoef(u.T).triu(1).abs().max() < 4.5 / 20_000**0.5
    assert abs(torch.corrcoef(torch.stack([u[:-1, 0], u[1:, 0]]))[0, 1]) < 4.5 / 20_000**0.5
    assert u.unique().numel() == u.numel()


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"k": -1}, ValueError, "k must be at least 0; got -1"),
        ({"k": 2, "method": "topk"}, ValueError, "'threshold', 'multinomial'"),
        ({"k": 2, "temperature": -1.0}, ValueError, "temperature must be a positive"),
        ({"k": 2, "row_keys_N": torch.zeros(3, dtype=torch.int64)}, ValueError, "row_keys_N must be"),
        ({"k": 2, "row_keys_N": torch.zeros(2)}, TypeError, "row_keys_N must be int32 or int64"),
        ({"k": 2, "valid_vocab": 10}, ValueError, "valid_vocab must lie between 0 and V = 9"),
    ],
)
def test_wrong_options_are_named(options, error, words):
    with pytest.raises(error, match=words):
        ops.sample_support(torch.zeros(2, 9), **options)
