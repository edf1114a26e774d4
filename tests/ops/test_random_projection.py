"""`random_projection`: signs bit by bit, their statistics, inner products, splits, dtypes, arguments."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from distill_core import ops
from distill_core.ops.random_projection import random_projection_op
from distill_core.ops.random_projection.reference import signs

IMPLS = ("reference",)
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
MASK = 2**64 - 1
GOLDEN = 0x9E3779B97F4A7C15


def mixed(x):
    """SplitMix64's finaliser in Python's integers."""
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
    return x ^ (x >> 31)


def sign(seed, feature, column):
    state = mixed((mixed((seed + GOLDEN) & MASK) + feature * GOLDEN) & MASK)
    word = mixed((state + (column // 64 + 1) * GOLDEN) & MASK)
    return -1 if word >> (column % 64) & 1 else 1


def signs_used(impl, features, dim, seed, offset=0):
    """The sign matrix an implementation applies: projections of unit vectors."""
    found = ops.random_projection(torch.eye(features), dim, seed=seed, feature_offset=offset, impl=impl)
    return (found * dim**0.5).round().int()


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("seed", [0, 1, -1, 2**63, 2**64 - 5, 123456789])
def test_signs_are_those_of_the_definition(seed, impl):
    for offset in (0, 5, 2**40, 2**62):
        found = signs_used(impl, 3, 130, seed, offset)
        want = [[sign(seed, offset + f, p) for p in range(130)] for f in range(3)]
        assert found.tolist() == want


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("dim", [1, 3, 17, 63, 64, 65, 100, 127, 128, 129, 300])
def test_every_implementation_uses_the_same_signs(dim, impl):
    want = signs(torch.arange(7, 700), dim, 11)
    torch.testing.assert_close(signs_used(impl, 693, dim, 11, 7).float(), want, rtol=0, atol=0)


@pytest.mark.parametrize("impl", IMPLS)
@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(0, 10),
    shapes=st.lists(st.lists(st.integers(0, 9), max_size=3), min_size=1, max_size=4),
    dim=st.integers(1, 200),
    dtypes=st.lists(st.sampled_from(DTYPES), min_size=4, max_size=4),
    offset=st.integers(0, 2**50),
    strided=st.booleans(),
    seed=st.integers(-(2**63), 2**64),
)
def test_any_shapes_dtypes_and_strides(impl, n, shapes, dim, dtypes, offset, strided, seed):
    g = torch.Generator().manual_seed(offset % 1000)
    tensors = [torch.randn(n, *s, generator=g).to(t) for s, t in zip(shapes, dtypes, strict=False)]
    flat = torch.cat([x.reshape(n, math.prod(x.shape[1:])).double() for x in tensors], dim=1)
    if strided:
        tensors = [torch.stack([x, torch.full_like(x, math.nan)], dim=-1)[..., 0] for x in tensors]
    found = ops.random_projection(tensors, dim, seed=seed, feature_offset=offset, impl=impl)
    want = flat @ signs(torch.arange(flat.shape[1]) + offset, dim, seed, torch.float64) / dim**0.5
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("n", [1, 2, 3, 8, 11])
def test_long_sums_are_as_exact_as_torch(n, impl):
    """fp32 against fp64, on features with a large mean."""
    x = torch.randn(n, 30011) + 3
    s = signs(torch.arange(30011), 70, 5)
    want = x.double() @ s.double() / 70**0.5
    allowed = 2 * ((x @ s) / 70**0.5 - want).abs().max() + 1e-7 * want.abs().max()
    assert (ops.random_projection(x, 70, seed=5, impl=impl) - want).abs().max() <= allowed


@pytest.mark.parametrize("impl", IMPLS)
def test_rows_do_not_depend_on_their_company(impl):
    x = torch.randn(11, 2000)
    whole = ops.random_projection(x, 150, seed=1, impl=impl)
    alone = torch.cat([ops.random_projection(x[i : i + 1], 150, seed=1, impl=impl) for i in range(11)])
    if impl == "reference":  # matrix products of torch
        torch.testing.assert_close(whole, alone)
    else:
        assert torch.equal(whole, alone)


@pytest.mark.parametrize("impl", IMPLS)
def test_pieces_with_an_offset_add_up(impl):
    """TRAK's fast_jl depends on the device; here any split has the same signs, so sums differ by rounding alone."""
    x = torch.randn(3, 5000)
    whole = ops.random_projection(x, 96, seed=4, feature_offset=10, impl=impl)
    for cuts in ([2500], [1, 4999], [513, 514, 3000]):
        edges = [0, *cuts, 5000]
        parts = [
            ops.random_projection(x[:, a:b], 96, seed=4, feature_offset=10 + a, impl=impl)
            for a, b in itertools.pairwise(edges)
        ]
        torch.testing.assert_close(sum(parts), whole, rtol=1e-5, atol=1e-4)
        listed = [x[:, a:b] for a, b in itertools.pairwise(edges)]
        joined = ops.random_projection(listed, 96, seed=4, feature_offset=10, impl=impl)
        torch.testing.assert_close(joined, whole, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("impl", IMPLS)
def test_fewer_columns_are_a_prefix(impl):
    x = torch.randn(2, 300)
    long, short = (ops.random_projection(x, d, seed=4, impl=impl) * d**0.5 for d in (200, 70))
    torch.testing.assert_close(long[:, :70], short, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("impl", IMPLS)
def test_thread_count_changes_nothing(impl):
    x = torch.randn(5, 40000)
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append(ops.random_projection(x, 300, seed=0, impl=impl))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*found)


def test_signs_are_balanced_and_independent():
    """Means, pairs of columns, pairs of features, and neighbouring seeds: all within 5 standard errors."""
    s = signs(torch.arange(4096), 256, 3, torch.float64)
    assert s.mean().abs() < 5 / (4096 * 256) ** 0.5
    assert (s.mean(0).abs() < 5 / 4096**0.5).all()
    assert (s.mean(1).abs() < 5.5 / 256**0.5).all()
    columns = (s.T @ s / 4096).fill_diagonal_(0)
    assert columns.abs().max() < 5.5 / 4096**0.5
    features = (s[:512] @ s[:512].T / 256).fill_diagonal_(0)
    assert features.abs().max() < 6 / 256**0.5
    for other in (4, 2, 3 + 2**32):
        assert (s * signs(torch.arange(4096), 256, other, torch.float64)).mean().abs() < 5 / (4096 * 256) ** 0.5


@pytest.mark.parametrize("impl", IMPLS)
def test_inner_products_are_unbiased_with_the_stated_variance(impl):
    """400 seeds at dim 16: the mean within 4 standard errors, the variance as stated in the docstring."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(2, 50, generator=g)
    x[1] += x[0]
    truth = (x @ x.T).double()
    found = torch.stack(
        [(y @ y.T).double() for y in (ops.random_projection(x, 16, seed=s, impl=impl) for s in range(400))]
    )
    deviation = found.std(0)
    assert ((found.mean(0) - truth).abs() < 4 * deviation / 20).all()
    norms = truth.diagonal()
    bound = (norms[:, None] * norms[None] + truth**2) / 16
    assert (deviation**2 < 1.3 * bound).all()
    assert (deviation**2 > 0.7 * (bound - 2 * (x[:, None] ** 2 * x[None] ** 2).sum(2) / 16)).all()


@pytest.mark.parametrize("impl", IMPLS)
def test_distances_are_kept(impl):
    """Johnson-Lindenstrauss: 20 points, 190 distances, dim 1024: all within 20 %."""
    x = torch.randn(20, 3000)
    y = ops.random_projection(x, 1024, seed=0, impl=impl)
    ratio = torch.pdist(y) / torch.pdist(x)
    assert ratio.min() > 0.8
    assert ratio.max() < 1.2


@pytest.mark.parametrize("impl", IMPLS)
def test_nan_inf_and_huge_numbers(impl):
    x = torch.randn(3, 100)
    x[0, 5], x[1, 7] = math.nan, math.inf
    x[2] *= 1e36
    y = ops.random_projection(x, 40, seed=0, impl=impl)
    assert y[0].isnan().all()
    assert y[1].isinf().all()
    assert y[2].isfinite().all()


def test_fp64_stays_fp64():
    assert ops.random_projection([torch.ones(2, 3), torch.ones(2, 3).double()], 4, seed=0).dtype == torch.float64


@pytest.mark.parametrize(
    ("arguments", "error", "sentence"),
    [
        ({"tensors": []}, ValueError, "tensors is empty"),
        ({"tensors": [torch.zeros(2, 3), torch.zeros(3, 3)]}, ValueError, "same number of samples"),
        ({"tensors": torch.zeros(())}, ValueError, r"must be \[n, ...\]"),
        ({"tensors": torch.zeros(2, 3, dtype=torch.int64)}, TypeError, "floating point"),
        ({"tensors": [None]}, TypeError, "must be a torch.Tensor"),
        ({"dim": 0}, ValueError, "dim must be at least 1"),
        ({"kind": "normal"}, ValueError, "kind must be one of 'rademacher'"),
        ({"feature_offset": -1}, ValueError, "feature_offset must be at least 0"),
        ({"feature_offset": 2**63 - 2}, ValueError, "below 2"),
        ({"impl": "triton"}, RuntimeError, "cannot run"),
    ],
)
def test_wrong_arguments(arguments, error, sentence):
    with pytest.raises(error, match=sentence):
        ops.random_projection(**{"tensors": torch.zeros(2, 3), "dim": 4, "seed": 0, **arguments})


@pytest.mark.parametrize("impl", IMPLS)
def test_opcheck(impl):
    tensors = [torch.randn(3, 5), torch.randn(3, 70).bfloat16()]
    assert set(torch.library.opcheck(random_projection_op, (tensors, 30, 5, 7, impl)).values()) == {"SUCCESS"}


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
def test_compiles_to_one_graph(dynamic, impl):
    torch._dynamo.reset()

    def project(tensors):
        return ops.random_projection(tensors, 40, seed=3, impl=impl)

    compiled = torch.compile(project, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    for n in (4, 6) if dynamic else (4,):
        tensors = [torch.randn(n, 5, 3), torch.randn(n, n)]
        torch.testing.assert_close(compiled(tensors), project(tensors))
