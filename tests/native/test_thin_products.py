"""The thin products of a narrow head against fp64: widths and column counts around the kernels' blocks.

Legend: C rows, V vocabulary, D hidden.
"""

from __future__ import annotations

import pytest
import torch

from distill_core import ops
from distill_core.ops import cpu_library, thin_products
from distill_core.ops.head import NARROW

pytestmark = pytest.mark.native
EPS = torch.finfo(torch.float32).eps

# 1-31 columns: less than one register or group; 1,024 is a slab, 2,500 three of them with a ragged last one.
shapes = pytest.mark.parametrize("rows", [1, 2, 7, 64])
columns = pytest.mark.parametrize("vocabulary", [1, 5, 16, 31, 100, 1024, 2500])
widths = pytest.mark.parametrize("width", [1, 3, 8, 13, NARROW])


@pytest.fixture(autouse=True)
def _ready():
    can_run, why = cpu_library.available()
    assert can_run, why
    torch.manual_seed(0)


def problem(rows, vocabulary, width):
    """Hidden states, transposed weight, bias and a gradient of the logits; signed, of different sizes."""
    hidden, weight_t = torch.randn(rows, width) * 3, torch.randn(width, vocabulary) * 2
    return hidden, weight_t, torch.randn(vocabulary), torch.randn(rows, vocabulary) ** 3


def close(got, want, size, terms):
    """Within fp32's bound on a sum of `terms` products whose absolute values add up to `size`.

    A lane adds up at most 256 of them (a slab of 1,024 columns in four lanes); lanes and slabs add three roundings.
    """
    assert bool(((got.double() - want).abs() <= EPS * (min(terms, 256) + 4) * size).all())


@shapes
@columns
@widths
@pytest.mark.parametrize("with_bias", [False, True])
def test_logits_equal_fp64(rows, vocabulary, width, with_bias):
    hidden, weight_t, bias, _ = problem(rows, vocabulary, width)
    bias = bias if with_bias else None
    out = torch.full((rows, vocabulary), torch.nan)
    thin_products.logits_into(out, hidden, weight_t, bias)
    extra = 0.0 if bias is None else bias.double()
    size = hidden.abs().double() @ weight_t.abs().double() + (0.0 if bias is None else bias.abs().double())
    close(out, hidden.double() @ weight_t.double() + extra, size, width)


@shapes
@columns
@widths
@pytest.mark.parametrize("add", [False, True])
def test_gradients_equal_fp64(rows, vocabulary, width, add):
    hidden, weight_t, _, dz = problem(rows, vocabulary, width)
    before = torch.randn(width, vocabulary)
    dhidden, dweight_t = (
        torch.full_like(hidden, torch.nan),
        before.clone() if add else torch.full_like(before, torch.nan),
    )
    thin_products.gradients_into(dz, hidden, weight_t, dhidden, dweight_t, add=add)
    dz64, kept = dz.double(), before.double() * add
    close(dhidden, dz64 @ weight_t.double().t(), dz64.abs() @ weight_t.abs().double().t(), vocabulary)
    close(dweight_t, hidden.double().t() @ dz64 + kept, hidden.abs().double().t() @ dz64.abs() + kept.abs(), rows)


def test_only_what_is_asked_for_and_strided_operands():
    hidden, weight_t, _, dz = problem(7, 2500, 8)
    both = torch.empty(7, 8), torch.empty(8, 2500)
    thin_products.gradients_into(dz, hidden, weight_t, *both, add=False)
    wide, wide_dz = torch.randn(7, 20), torch.full((7, 2600), torch.nan)
    wide[:, 4:12], wide_dz[:, :2500] = hidden, dz
    scattered = weight_t.t().contiguous().t()  # rows of this one are not contiguous
    some = torch.full((7, 20), torch.nan), torch.full((8, 2600), torch.nan)
    for wanted in ((True, False), (False, True)):
        into = [x[:, at : at + n] if w else None for x, at, n, w in zip(some, (4, 0), (8, 2500), wanted, strict=True)]
        thin_products.gradients_into(wide_dz[:, :2500], wide[:, 4:12], scattered, *into, add=False)
    assert torch.equal(some[0][:, 4:12], both[0]) and torch.equal(some[1][:, :2500], both[1])
    assert bool(some[0][:, :4].isnan().all() and some[0][:, 12:].isnan().all() and some[1][:, 2500:].isnan().all())


def test_rounds_a_16_bit_hidden_gradient_once():
    hidden, weight_t, _, dz = problem(7, 300, 8)
    exact, low = torch.empty(7, 8), torch.empty(7, 8, dtype=torch.bfloat16)
    for into in (exact, low):
        thin_products.gradients_into(dz, hidden, weight_t, into, None, add=False)
    assert torch.equal(low, exact.bfloat16())


def test_threads_and_row_groups_change_nothing():
    hidden, weight_t, bias, dz = problem(37, 5000, 8)

    def everything():
        z, dhidden, dweight_t = torch.empty(37, 5000), torch.empty(37, 8), torch.empty(8, 5000)
        thin_products.logits_into(z, hidden, weight_t, bias)
        thin_products.gradients_into(dz, hidden, weight_t, dhidden, dweight_t, add=False)
        return z, dhidden, dweight_t

    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = everything()
        torch.set_num_threads(3)
        three = everything()
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(one, three, strict=True))
    for first, last in ((0, 1), (1, 4), (4, 37)):
        rows = slice(first, last)
        z, dhidden = torch.empty(last - first, 5000), torch.empty(last - first, 8)
        thin_products.logits_into(z, hidden[rows], weight_t, bias)
        thin_products.gradients_into(dz[rows], hidden[rows], weight_t, dhidden, None, add=False)
        assert torch.equal(z, one[0][rows]) and torch.equal(dhidden, one[1][rows])


def test_no_rows():
    weight_t, dweight_t = torch.randn(8, 50), torch.ones(8, 50)
    thin_products.logits_into(torch.empty(0, 50), torch.empty(0, 8), weight_t, None)
    thin_products.gradients_into(
        torch.empty(0, 50), torch.empty(0, 8), weight_t, torch.empty(0, 8), dweight_t, add=True
    )
    assert bool((dweight_t == 1).all())
    thin_products.gradients_into(torch.empty(0, 50), torch.empty(0, 8), weight_t, None, dweight_t, add=False)
    assert not dweight_t.any()


def test_nan_and_infinity_pass_through():
    hidden, weight_t, bias, _ = problem(5, 100, 8)
    hidden[1, 2], bias[3] = torch.nan, -torch.inf
    z = torch.empty(5, 100)
    thin_products.logits_into(z, hidden, weight_t, bias)
    assert bool(z[1].isnan().all()) and bool((z[[0, 2, 3, 4], 3] == -torch.inf).all())
    assert not z[[0, 2, 3, 4]].isnan().any()


def test_wrong_shapes_are_refused():
    hidden, weight_t, bias, dz = problem(5, 100, 8)
    with pytest.raises(RuntimeError, match="weight must be a float32"):
        thin_products.logits_into(torch.empty(5, 100), hidden[:, :7], weight_t, bias)
    with pytest.raises(RuntimeError, match="bias must be"):
        thin_products.logits_into(torch.empty(5, 100), hidden, weight_t, bias[:50])
    with pytest.raises(RuntimeError, match="dweight must be a float32"):
        thin_products.gradients_into(dz, hidden, weight_t, None, torch.empty(8, 99), add=False)


def test_every_instruction_set(on_isa):
    code = """
import torch
from distill_core.ops import cpu_library, thin_products
assert cpu_library.available()[0]
torch.manual_seed(0)
h, w, dz = torch.randn(7, 13), torch.randn(13, 2500), torch.randn(7, 2500)
z, dh, dw = torch.empty(7, 2500), torch.empty(7, 13), torch.empty(13, 2500)
thin_products.logits_into(z, h, w, None)
thin_products.gradients_into(dz, h, w, dh, dw, add=False)
h, w, dz = (x.double() for x in (h, w, dz))
for got, want in ((z, h @ w), (dh, dz @ w.t()), (dw, h.t() @ dz)):
    assert (got.double() - want).abs().max() <= 2e-6 * want.abs().max(), (got - want).abs().max()
"""
    on_isa(code)


def test_a_narrow_head_uses_them(monkeypatch):
    """And gives what the reference gives, with a frozen weight too."""
    called = []
    for name in ("logits_into", "gradients_into"):
        whole = getattr(thin_products, name)
        monkeypatch.setattr(thin_products, name, lambda *a, f=whole, n=name, **k: (called.append(n), f(*a, **k))[1])
    hidden, weight, ids = torch.randn(70, 8), torch.randn(101, 8), torch.randint(0, 101, (70, 1))
    hidden.requires_grad_()
    logp = torch.full((70, 1), -0.5)
    (got,) = torch.autograd.grad(ops.linear_sparse_kl(hidden, weight, ids, logp, impl="cpu"), hidden)
    assert set(called) == {"logits_into", "gradients_into"}
    exact = hidden.detach().double().requires_grad_()
    (want,) = torch.autograd.grad(ops.linear_sparse_kl(exact, weight, ids, logp.double(), impl="reference"), exact)
    torch.testing.assert_close(got.double(), want, rtol=1e-5, atol=1e-7)
