"""The double backward of the fused head with 16-bit weights: values against fp64, and no copy of the weight in fp32.

Legend: N rows, V vocabulary, D hidden, K support.
"""

from __future__ import annotations

import pytest
import torch

from distill_core import ops
from distill_core.ops import cpu_library
from distill_core.ops.support_logits.linear_op import linear_support_logits_double_backward_op as double_backward

pytestmark = pytest.mark.native
impls = pytest.mark.parametrize("impl", ["reference", "cpu"])
HEADS = {
    "plain": {},
    "softcap": {"softcap": 4.0, "logit_scale": 1.3, "temperatures": (1.0, 2.0)},
    "extras": {"logit_scale": 0.7, "extras": ("mean", "entropy")},
}


@pytest.fixture(autouse=True)
def _ready():
    can_run, why = cpu_library.available()
    assert can_run, why
    torch.manual_seed(0)


def second_gradients(inputs, ids, cotangents, impl, head):
    """Gradients of <X, dH> + <Y, dW> + <y, db> with respect to hidden, weight and bias; any of X, Y, y may be None."""
    hidden, weight, bias = inputs
    s = ops.linear_support_logits(hidden, weight, ids, bias=bias, impl=impl, **head)
    loss = s.support_NK.square().sum() / 10 + s.tail_NT.exp().sqrt().sum()
    if s.entropy_NT is not None:
        loss = loss + (s.entropy_NT[:, 0] * s.mean_N).sum()
    first = torch.autograd.grad(loss, inputs, create_graph=True)
    value = sum((g * c.to(g.dtype)).sum() for g, c in zip(first, cotangents, strict=True) if c is not None)
    return torch.autograd.grad(value, inputs, allow_unused=True)


@impls
@pytest.mark.parametrize("width", [8, 40])  # thin products; slabs of the library's products
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("head", HEADS.values(), ids=HEADS)
@pytest.mark.parametrize("given", [(1, 1, 1), (1, 0, 0), (0, 1, 0)], ids=["all", "X", "Y"])
def test_equals_fp64(given, head, dtype, width, impl, monkeypatch):
    """Against autograd through the dense fp64 reference; slabs of 13 columns, so that many ragged ones meet."""
    monkeypatch.setattr("distill_core.ops.head.SLAB_BYTES", 13 * 4 * width)
    low = [torch.randn(11, width), torch.randn(57, width) / width**0.5, torch.randn(57)]
    low = [x.to(dtype).requires_grad_() for x in low]
    ids = torch.rand(11, 57).argsort(1)[:, :5].contiguous()
    ids[2, 3] = -1
    cotangents = [torch.randn_like(x) if wanted else None for x, wanted in zip(low, given, strict=True)]
    exact = [x.detach().double().requires_grad_() for x in low]
    got = second_gradients(low, ids, cotangents, impl, head)
    want = second_gradients(exact, ids, [None if c is None else c.double() for c in cotangents], "reference", head)
    # The cotangents of support and tail pass through one more rounding to the dtype, between loss and head.
    slack = 1e-4 if dtype == torch.float32 else 4 * torch.finfo(dtype).eps
    for g, w in zip(got, want, strict=True):
        assert g.dtype == dtype
        assert float((g.double() - w).norm()) <= slack * float(w.norm()), float((g.double() - w).norm() / w.norm())


@impls
def test_holds_no_wide_copy_of_a_16_bit_weight(impl, monkeypatch):
    """Peak of the double backward alone: the fp32 sum, its rounding, a slab; no fp32 weight, no fp32 cotangent."""
    monkeypatch.setattr("distill_core.ops.head.SLAB_BYTES", 2**20)
    v, d = 49_152, 64
    hidden, weight = torch.randn(1, d).bfloat16(), (torch.randn(v, d) * 0.1).bfloat16()
    cotangents = torch.randn(1, 1), torch.randn(1, 1), None, None, None
    options = [1.0], None, 1.0, False, False, False, impl
    upstream = torch.randn_like(hidden), torch.randn_like(weight), None
    ids = torch.tensor([[3]])
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        double_backward(hidden, weight, None, ids, None, *cotangents, *options, *upstream)
    total = peak = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            total += event.nbytes()
            peak = max(peak, total)
    assert v * d * 4 < peak < 2 * v * d * 4, peak / (v * d * 4)
