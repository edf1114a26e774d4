"""Fused losses through the C++ library against the reference in fp64; gradient matching through a head.

Legend: N rows, V vocabulary, D hidden, K support.
"""

from __future__ import annotations

import pytest
import torch

from distill_core import ops
from distill_core.ops import cpu_library
from distill_core.ops.head import NARROW

pytestmark = pytest.mark.native

HEADS = {
    "plain": {},
    "hot": {"temperatures": (2.5,), "logit_scale": 0.6},
    "softcap": {"softcap": 4.0, "logit_scale": 1.3, "temperatures": (1.0, 2.0)},
    "extras": {"temperatures": (2.0,), "extras": ("mean", "entropy", "top1")},
}
LOW = [torch.float32, torch.bfloat16, torch.float16]


@pytest.fixture(autouse=True)
def _loaded():
    torch.manual_seed(0)
    can_run, why = cpu_library.available()
    assert can_run, why


def problem(n, v, d, k, dtype, *, spread=3.0):
    """Peaked, signed logits; padding ids; hidden, weight and bias in `dtype` and their exact copies in fp64."""
    hidden = (torch.randn(n, d, dtype=torch.float64) * spread).to(dtype)
    weight = (torch.randn(v, d, dtype=torch.float64) / d**0.5 * 2).to(dtype)
    bias = torch.randn(v, dtype=torch.float64).to(dtype)
    ids = torch.rand(n, v).argsort(1)[:, :k].contiguous()
    if n > 3 and k > 1:
        ids[0, 1] = -1
        ids[3] = -1
    labels = torch.randint(0, v, (n,))
    labels[:1] = -100
    low = [x.requires_grad_() for x in (hidden, weight, bias)]
    return low, [x.detach().double().requires_grad_() for x in low], ids, labels


def row_loss(s, rows):
    """Reads everything there is, with different weights for rows and outcomes."""
    lp = s.log_probs(s.temperatures[-1], floor=-30.0)
    loss = -(lp * torch.linspace(0.1, 1, lp.shape[1], dtype=lp.dtype)).sum(1) + 0.3 * lp[:, -1].exp()
    loss = loss * torch.linspace(0.5, 1.5, 64, dtype=lp.dtype)[rows]
    if 1.0 in s.temperatures:
        loss = loss + s.cross_entropy()
    return loss if s.entropy_NT is None else loss + s.entropy_NT[:, 0] * s.mean_N


def agree(got, want, dtype):
    """Within a rounding to `dtype` and 1e-5 of the largest entry."""
    for g, w in zip(got, want, strict=True):
        assert g.dtype == dtype
        bound = torch.finfo(dtype).eps * w.abs() + 1e-5 * w.abs().max() + 1e-7
        assert bool(((g.double() - w).abs() <= bound).all()), ((g.double() - w).abs() / bound).max()


@pytest.mark.parametrize("width", [8, NARROW, NARROW + 1, 70])
@pytest.mark.parametrize("dtype", LOW, ids=str)
@pytest.mark.parametrize("head", HEADS.values(), ids=HEADS)
def test_gradient_in_forward_equals_fp64(head, dtype, width, monkeypatch):
    """Narrow (transposed) and wide heads; slabs of 13 columns, so that many ragged ones meet."""
    monkeypatch.setattr("distill_core.ops.head.SLAB_BYTES", 13 * 4 * width)
    low, exact, ids, labels = problem(11, 101, width, 5, dtype)

    def loss(inputs, impl):
        hidden, weight, bias = inputs
        return ops.sparse_distill_loss(
            hidden, weight, ids, row_loss, bias=bias, labels_N=labels, chunk_rows=4, impl=impl, **head
        )

    got, want = loss(low, "cpu"), loss(exact, "reference")
    assert got.dtype == torch.float32
    torch.testing.assert_close(got.double(), want, rtol=1e-5, atol=1e-5)
    agree(torch.autograd.grad(got, low), torch.autograd.grad(want, exact), dtype)


def test_strided_operands_and_a_frozen_head():
    low, _, ids, _ = problem(11, 101, 40, 5, torch.bfloat16)
    hidden, weight = low[0].detach(), low[1].detach()
    logp = torch.full((11, 5), -3.0)
    strided = torch.stack([hidden, hidden], 2)[..., 0].requires_grad_()
    columns = weight.t().contiguous().t()
    hidden.requires_grad_()
    (want,) = torch.autograd.grad(ops.linear_sparse_kl(hidden, weight, ids, logp, impl="cpu"), hidden)
    (got,) = torch.autograd.grad(ops.linear_sparse_kl(strided, columns, ids, logp, impl="cpu"), strided)
    torch.testing.assert_close(got, want)


def test_the_gradient_handed_out_is_the_stored_one():
    low, _, ids, _ = problem(11, 101, 40, 5, torch.float32)
    loss = ops.linear_sparse_kl(low[0], low[1], ids, torch.full((11, 5), -3.0), impl="cpu")
    stored = loss.grad_fn.gradients[1].data_ptr()
    assert torch.autograd.grad(loss, low[1])[0].data_ptr() == stored


def matched(hidden, weight, ids, target, impl):
    """Squared distance of the loss's weight gradient to `target`, differentiable in `hidden`."""
    s = ops.linear_support_logits(hidden, weight, ids, temperatures=(2.0,), impl=impl)
    (dweight,) = torch.autograd.grad(s.log_probs(2.0, floor=-30.0).square().mean(), weight, create_graph=True)
    return (dweight - target).square().sum()


def test_gradient_matching_through_a_head_equals_the_reference():
    low, exact, ids, _ = problem(9, 57, 40, 5, torch.float32, spread=0.5)
    target = torch.randn(57, 40, dtype=torch.float64) * 0.01
    found = []
    for (hidden, weight, _), impl in ((low, "cpu"), (exact, "reference")):
        found.append(torch.autograd.grad(matched(hidden, weight, ids, target.to(hidden.dtype), impl), hidden)[0])
    error = (found[0].double() - found[1]).norm() / found[1].norm()
    assert error < 1e-4


def test_gradient_of_the_matching_loss_is_its_derivative():
    _, (hidden, weight, _), ids, _ = problem(5, 17, 4, 3, torch.float64, spread=0.5)
    target, direction = torch.randn(17, 4).double() * 0.01, torch.randn(5, 4).double()
    (g,) = torch.autograd.grad(matched(hidden, weight, ids, target, "reference"), hidden)
    h = 1e-5
    ends = [matched(hidden.detach() + sign * h * direction, weight, ids, target, "reference") for sign in (1, -1)]
    torch.testing.assert_close((g * direction).sum(), (ends[0] - ends[1]).detach() / (2 * h), rtol=1e-6, atol=1e-10)


@pytest.mark.parametrize("impl", ["reference", "cpu"])
def test_gradient_matching_holds_no_tokens_by_vocabulary_tensor(impl):
    """Forward, backward and double backward together stay below one [N, V] fp32 tensor."""
    n, v = 2048, 49_152
    hidden = torch.randn(n, 8, requires_grad=True)
    weight = (torch.randn(v, 8) * 0.1).requires_grad_()
    ids = torch.randint(0, v // 8, (n, 8)) + torch.arange(8) * (v // 8)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        matched(hidden, weight, ids, torch.zeros(v, 8), impl).backward()
    total = peak = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            total += event.nbytes()
            peak = max(peak, total)
    assert 0 < peak < n * v * 4
