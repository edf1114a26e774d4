"""`gradient_match`: value and derivatives against their definition in fp64, extreme rows."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from distill_core import ops
from tests.ops.gradient_lists import DISTANCES, DTYPES, GROUPS, IMPLS, by_definition, make, measured, truth

SHAPES = [(7, 33), (5,), (3, 4, 2), (1, 1), (130, 5), (2, 9001), (), (4, 0)]


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("eps_mode", ["clamp", "added"])
@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("distance", DISTANCES)
def test_value_and_gradient(distance, group, eps_mode, dtype, impl):
    """An upstream gradient other than 1; zero rows on one side have no derivative there and are tested below."""
    synthetic, real = make(SHAPES, dtype)
    options = {"distance": distance, "group": group, "eps_mode": eps_mode, "eps": 1e-3, "include_vectors": True}
    options["weights"] = [1.0, 2.0, 0.5, 1.5, 1.0, 3.0, 1.0, 1.0]
    value, grads = measured(synthetic, real, 1.7, impl=impl, **options)
    expected, slopes = truth(synthetic, real, 1.7, **options)
    torch.testing.assert_close(value.double(), expected, rtol=1e-6, atol=1e-6)
    unit = {torch.float32: 2.0**-24, torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}[dtype]
    for x, g, want in zip(synthetic, grads, slopes, strict=True):
        assert g.dtype == dtype
        # One rounding to the dtype (fp16 has subnormals below 6e-5), and fp32 arithmetic; the gradient of a single
        # number is the difference of two terms of size 1 / |a| (times weight and upstream, at most 5.1).
        bound = 1.1 * unit * want.abs() + 4e-7 * float(want.abs().max() if want.numel() else 0) + 3e-8
        bound = bound + (4e-7 * 5.1 / float(x.detach().abs()) if x.numel() == 1 and distance == "cosine" else 0)
        assert (g.double() - want).abs().le(bound).all(), float(((g.double() - want).abs() / bound).max())


@pytest.mark.parametrize("impl", IMPLS)
@settings(max_examples=60, deadline=None)
@given(
    shapes=st.lists(st.lists(st.integers(0, 5) | st.sampled_from([17, 63, 100]), min_size=0, max_size=3), max_size=5),
    distance=st.sampled_from(DISTANCES),
    group=st.sampled_from(GROUPS),
    eps_mode=st.sampled_from(["clamp", "added"]),
    vectors=st.booleans(),
    dtype=st.sampled_from(DTYPES),
    layout=st.sampled_from(["contiguous", "transposed", "strided rows", "every second"]),
    seed=st.integers(0, 10**6),
)
def test_any_shapes_and_strides(impl, shapes, distance, group, eps_mode, vectors, dtype, layout, seed):
    shapes = [tuple(s) for s in shapes if math.prod(s) < 5000]
    if shapes and group == "row" and not vectors and all(len(s) < 2 for s in shapes):
        shapes.append((2, 3))
    synthetic, real = make(shapes, dtype, seed, zero_rows=True)
    laid = [relaid(x.detach(), layout).requires_grad_() for x in synthetic]
    options = {"distance": distance, "group": group, "eps_mode": eps_mode, "eps": 1e-3, "include_vectors": vectors}
    value = ops.gradient_match(laid, [relaid(x, layout) for x in real], impl=impl, **options)
    expected, slopes = truth(synthetic, real, **options)
    torch.testing.assert_close(value.double(), expected, rtol=2e-6, atol=2e-6)
    if not shapes:
        return
    grads = torch.autograd.grad(value, laid, allow_unused=True)
    for x, g, want in zip(laid, grads, slopes, strict=True):
        got = torch.zeros_like(x) if g is None else g
        if distance == "cosine":  # the definition has a slope, or none, where the row is zero; the op says 0
            rows = x.reshape(x.shape[0], -1) if group == "row" and x.dim() > 1 and x.numel() else x.reshape(1, -1)
            want = want.reshape(rows.shape) * (rows.detach() != 0).any(1, keepdim=True)
            got = got.reshape(rows.shape)
        assert got.isfinite().all()
        torch.testing.assert_close(got.double(), want.nan_to_num(), rtol=2e-2, atol=3e-3)


def relaid(x, layout):
    if layout == "transposed" and x.dim() > 1:
        return x.transpose(0, -1).contiguous().transpose(0, -1)
    if layout == "strided rows" and x.dim() > 1:
        return torch.cat([x, torch.full_like(x, math.nan)], dim=-1)[..., : x.shape[-1]]
    if layout == "every second" and x.dim() > 0:
        return torch.stack([x, torch.full_like(x, math.nan)], dim=-1)[..., 0]
    return x


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("group", GROUPS)
def test_zero_rows(group, impl):
    """GRADMM's zero gradient tensors: zero on both sides contributes 0, on one side 1 per row; no NaN, gradient 0."""
    for a_zero, b_zero, expected in ((True, True, 0.0), (True, False, 1.0), (False, True, 1.0)):
        a = (torch.zeros if a_zero else torch.ones)(1, 8).requires_grad_()
        b = (torch.zeros if b_zero else torch.ones)(1, 8)
        value = ops.gradient_match([a], [b], group=group, impl=impl)
        assert value.item() == expected
        (g,) = torch.autograd.grad(value, a)
        assert g.isfinite().all()
        assert not g.any()
    a = torch.zeros(3, 8, requires_grad=True)
    for mode in ("clamp", "added"):
        value = ops.gradient_match([a], [torch.zeros(3, 8)], group=group, eps_mode=mode, impl=impl)
        assert not torch.autograd.grad(value, a)[0].any()


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("norm", [1e-35, 1e-20, 1e-10, 1e-3, 1.0, 1e10, 1e25, 1e36])
def test_any_norm(norm, impl):
    """The cosine does not depend on the norm, whose square leaves fp32 at 1e-19 and 1e19, while norms exceed eps."""
    synthetic, real = make([(5, 40), (3, 5000)], torch.float32)
    options = {"distance": "cosine", "group": "row", "eps": 1e-44, "eps_mode": "clamp"}
    expected, slopes = truth(synthetic, real, **options)
    scaled = [(x.detach().double() * norm).float().requires_grad_() for x in synthetic]
    real = [(x.double() * norm).float() for x in real]
    value, grads = measured(scaled, real, impl=impl, **options)
    torch.testing.assert_close(value.double(), expected, rtol=1e-6, atol=1e-6)
    for g, want in zip(grads, slopes, strict=True):
        if norm >= 1e-20:  # below, 1 / norm leaves fp32
            scale = float(want.abs().max())
            torch.testing.assert_close(g.double() * norm, want, rtol=1e-4 if norm > 1e20 else 1e-5, atol=1e-6 * scale)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("distance", DISTANCES)
def test_nan_and_inf_are_not_hidden(distance, bad, group, impl):
    synthetic, real = make([(4, 40)])
    with torch.no_grad():
        synthetic[0][1, 7] = bad
    value = ops.gradient_match(synthetic, real, distance=distance, group=group, impl=impl)
    assert not value.isfinite()


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("group", GROUPS)
def test_zero_at_equality_at_every_norm(group, impl):
    """Dataset Condensation's `|a||b| + 1e-6` puts equal rows of norm 1e-3 at a distance of 0.5."""
    g = torch.Generator().manual_seed(0)
    row = torch.randn(6, 100, generator=g)
    a = 1e-3 * row / row.norm(dim=1, keepdim=True)
    value = ops.gradient_match([a.clone().requires_grad_()], [a], group=group, impl=impl)
    assert abs(value.item()) < 1e-6
    peer = ops.gradient_match([a], [a], eps=1e-6, eps_mode="added", impl=impl) / 6
    by_hand = (1 - (a * a).sum(1) / (a.norm(dim=1) * a.norm(dim=1) + 1e-6)).mean()
    torch.testing.assert_close(peer, by_hand, rtol=1e-5, atol=1e-6)
    assert abs(peer.item() - 0.5) < 1e-3  # the peer's form fails the first assertion by far


@pytest.mark.parametrize("impl", IMPLS)
def test_scaling_a_row_changes_nothing(impl):
    synthetic, real = make([(7, 33)])
    once = ops.gradient_match(synthetic, real, impl=impl)
    scale = torch.logspace(-6, 6, 7)[:, None]
    torch.testing.assert_close(ops.gradient_match([synthetic[0] * scale], real, impl=impl), once)
    _, (g,) = measured(synthetic, real, impl=impl)
    along = (g * synthetic[0]).sum(1).abs() / (g.norm(dim=1) * synthetic[0].norm(dim=1))
    assert along.max() < 1e-6  # the gradient is orthogonal to each row


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("distance", DISTANCES)
def test_finite_difference_of_the_value_is_the_gradient(distance, impl):
    synthetic, real = make([(3, 17), (2, 3, 5)])
    _, grads = measured(synthetic, real, distance=distance, impl=impl)
    h = 1e-2  # and no step across a kink of |a - b|
    direction = [torch.randn_like(a) * ((a - b).abs() > 0.1) for a, b in zip(synthetic, real, strict=True)]
    at = [
        ops.gradient_match(
            [x.detach() + s * h * d for x, d in zip(synthetic, direction, strict=True)],
            real,
            distance=distance,
            impl=impl,
        )
        for s in (1, -1)
    ]
    slope = sum((g * d).sum() for g, d in zip(grads, direction, strict=True))
    torch.testing.assert_close((at[0] - at[1]) / (2 * h), slope, rtol=3e-3, atol=3e-3)


@pytest.mark.parametrize("eps_mode,eps", [("clamp", 1e-12), ("clamp", 2.0), ("added", 0.3)])
@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("distance", DISTANCES)
def test_gradcheck_and_gradgradcheck(distance, group, eps_mode, eps):
    synthetic, real = make([(3, 4), (5,), (2, 3, 2)], torch.float64)

    def loss(*a):
        return ops.gradient_match(
            list(a),
            real,
            distance=distance,
            group=group,
            eps=eps,
            eps_mode=eps_mode,
            weights=[1.0, 2.0, 0.5],
            include_vectors=True,
        )

    assert torch.autograd.gradcheck(loss, synthetic)
    assert torch.autograd.gradgradcheck(loss, synthetic)


@pytest.mark.parametrize("impl", IMPLS)
def test_second_derivative_of_each_impl(impl):
    synthetic, real = make([(3, 40), (2, 3, 5)])

    def second(value, a, directions):
        grads = torch.autograd.grad(value, a, create_graph=True)
        inner = sum((g * d.to(g)).sum() for g, d in zip(grads, directions, strict=True))
        return torch.autograd.grad(inner, a)

    directions = [torch.randn_like(x) for x in synthetic]
    a = [x.detach().double().requires_grad_() for x in synthetic]
    options = {"distance": "cosine", "group": "row", "eps": 1e-12, "eps_mode": "clamp"}
    want = second(by_definition(a, [x.double() for x in real], **options), a, directions)
    got = second(ops.gradient_match(synthetic, real, impl=impl), synthetic, directions)
    for g, w in zip(got, want, strict=True):
        torch.testing.assert_close(g.double(), w, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("distance", ["cosine", "l2+l1"])
def test_a_gradient_of_the_forward_pass_is_handed_out_once(distance, dtype):
    """Each backward pass returns memory of its own, and what is done to one changes no other."""
    synthetic, real = make([(7, 33), (130, 5)], dtype)
    value = ops.gradient_match(synthetic, real, distance=distance, impl="cpu")
    first = torch.autograd.grad(value, synthetic, retain_graph=True)
    kept = [g.clone() for g in first]
    second = torch.autograd.grad(value, synthetic, retain_graph=True)
    torch._foreach_zero_(list(first))
    third = torch.autograd.grad(value * 3, synthetic)
    for x, y, z in zip(kept, second, third, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-6 if dtype == torch.float32 else 0, atol=0)
        bound = 4e-7 * float(z.float().abs().max())  # two terms may cancel
        torch.testing.assert_close(z, 3 * y, rtol={torch.float32: 1e-6}.get(dtype, 1e-2), atol=bound)
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.grad(value, synthetic)


def test_small_16_bit_gradients_survive_a_large_upstream():
    """Loss scaling: a gradient of 1e-9 is nothing in fp16, 65,536 times it is not."""
    synthetic, real = make([(4, 50)], torch.float16, scale=100.0)
    options = {"distance": "cosine", "group": "row", "eps": 1e-12, "eps_mode": "clamp", "weights": [1e-6]}
    _, (got,) = measured(synthetic, real, 65536.0, impl="cpu", **options)
    _, (want,) = truth(synthetic, real, 65536.0, **options)
    torch.testing.assert_close(got.double(), want, rtol=1e-3, atol=6e-8)
    assert (got != 0).double().mean() > 0.9
    _, (lost,) = measured(synthetic, real, 1.0, impl="cpu", **options)
    assert not lost.any()


@pytest.mark.parametrize("columns", [256, 257])
def test_gradients_larger_than_the_caches(columns):
    """Huge pages, cleared by one thread ahead of the others, and stores past the caches: the same bits."""
    synthetic, real = make([(5000, columns), (3, 1000), (4001, columns)])
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            found.append(measured(synthetic, real, impl="cpu"))
    finally:
        torch.set_num_threads(before)
    value, grads = measured(synthetic, real, impl="reference")
    for got, slopes in found:
        assert torch.equal(got, found[0][0])
        torch.testing.assert_close(got, value, rtol=2e-6, atol=0)
        for g, first, want in zip(slopes, found[0][1], grads, strict=True):
            assert torch.equal(g, first)
            torch.testing.assert_close(g, want, rtol=2e-6, atol=4e-7 * float(want.abs().max()))


@pytest.mark.parametrize("impl", IMPLS)
def test_gradient_matching_through_a_model(impl):
    """The loop it is for: the gradient of the distance between gradients reaches the synthetic input."""
    layer = torch.nn.Linear(6, 5)
    data, x = torch.randn(8, 6), torch.randn(2, 6, requires_grad=True)

    def grads(inputs, create_graph):
        return torch.autograd.grad(layer(inputs).square().sum(), list(layer.parameters()), create_graph=create_graph)

    real = grads(data, False)
    distance = ops.gradient_match(grads(x, True), real, impl=impl)
    (got,) = torch.autograd.grad(distance, x)
    options = {"distance": "cosine", "group": "row", "eps": 1e-12, "eps_mode": "clamp"}
    (want,) = torch.autograd.grad(by_definition(grads(x, True), real, **options).float(), x)
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-6)
