"""`sparse_kl`, `linear_sparse_kl`, `support_logits` over drawn shapes, strides, dtypes and paddings, against fp64.

Also `linear_topk_logits` and `sample_support`, by what every draw obeys.
"""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from distill_core import ops
from tests.ops.sparse_teacher import MODES
from tests.ops.test_support_shapes import strided

LAYOUTS = ["contiguous", "transposed", "every-second"]
FLOATS = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


def drawn(data, n, v):
    """Logits' generator, a support with padding, and a teacher on it: log-probabilities [N, K] and the tail's."""
    k = data.draw(st.sampled_from(sorted({0, 1, v // 2, v})), label="k")
    g = torch.Generator().manual_seed(data.draw(st.integers(0, 10**6), label="seed"))
    ids = torch.rand(n, v, generator=g).argsort(1)[:, :k]
    ids = torch.where(torch.rand(n, k, generator=g) < data.draw(st.sampled_from([0.0, 0.3, 1.0])), -1, ids)
    full = torch.log_softmax(torch.randn(n, v, generator=g, dtype=torch.float64) * 3, 1)
    on = torch.zeros(n, v + 1, dtype=torch.bool).scatter(1, torch.where(ids < 0, v, ids), True)[:, :v]
    return g, ids, full.gather(1, ids.clamp_min(0)), full.masked_fill(on, -math.inf).logsumexp(1), on


def dense_rows(z, ids, logp, tail, on, mode, direction, t):
    """The divergence from whole rows of fp64 logits, without the op's outcomes; where both sides are 0 it adds 0."""
    logq_all = torch.log_softmax(z / t, 1)
    real = ids >= 0
    logq = logq_all.gather(1, ids.clamp_min(0)).masked_fill(~real, 0.0)
    logp = logp.masked_fill(~real, -math.inf)
    rest = ~on.all(1) & torch.tensor(mode == "tail")
    if mode == "tail":
        logqbar = logq_all.masked_fill(on & rest[:, None], -math.inf).logsumexp(1)
        logp = torch.cat([logp, tail.masked_fill(~rest, -math.inf)[:, None]], 1)
        logq, real = torch.cat([logq, logqbar[:, None]], 1), torch.cat([real, rest[:, None]], 1)
    elif mode.startswith("renormalized"):
        some = real.any(1, keepdim=True)
        logp = logp - torch.where(some, logp.logsumexp(1, keepdim=True), 0.0)
        if mode.endswith("both"):
            lse = logq.masked_fill(~real & some, -math.inf).logsumexp(1, keepdim=True)
            logq = torch.where(some, logq - lse, logq)
    gap = torch.where(real, logp.masked_fill(~real, 0.0) - logq, 0.0)
    weight = logp.exp() if direction == "forward" else torch.where(real, logq.exp(), 0.0)
    return (weight * (gap if direction == "forward" else -gap)).sum(1)


def assert_near(found, truth, dtype):
    eps = 1e-9 if dtype == torch.float64 else 5e-5
    assert found.shape == truth.shape
    bound = torch.finfo(found.dtype).eps * truth.abs() + eps * (1 + truth.abs().max() if truth.numel() else 1)
    assert ((found.double() - truth).abs() <= bound).all()


@settings(max_examples=80, deadline=None)
@given(
    n=st.integers(0, 6),
    v=st.integers(1, 33),
    data=st.data(),
    dtype=st.sampled_from(FLOATS),
    layouts=st.tuples(*[st.sampled_from(LAYOUTS)] * 3),
    mode_and_direction=st.sampled_from(
        [(mode, "forward") for mode in MODES] + [("tail", "reverse"), ("renormalized-both", "reverse")]
    ),
    t=st.sampled_from([0.6, 1.0, 2.5]),
    ids_dtype=st.sampled_from([torch.int32, torch.int64]),
    reduction=st.sampled_from(["none", "sum", "mean"]),
    impl=st.sampled_from(["auto", "reference"]),
    linear=st.booleans(),
)
def test_losses(n, v, data, dtype, layouts, mode_and_direction, t, ids_dtype, reduction, impl, linear):
    mode, direction = mode_and_direction
    g, ids, logp, tail, on = drawn(data, n, v)
    upstream = torch.randn(n if reduction == "none" else (), generator=g, dtype=torch.float64)
    given_ids, given_logp = strided(ids.to(ids_dtype), layouts[2]), strided(logp, layouts[1])
    options = {"tail_logp_N": tail} if mode == "tail" else {}
    options |= {"mode": mode, "direction": direction, "temperature": t, "reduction": reduction, "impl": impl}
    if linear:
        shapes = [(n, 5), (v, 5)]
        inputs = [strided((torch.randn(s, generator=g) * 1.5).to(dtype), how) for s, how in zip(shapes, layouts)]  # noqa: B905
    else:
        inputs = [strided((torch.randn(n, v, generator=g) * 4).to(dtype), layouts[0])]
    inputs = [x.requires_grad_() for x in inputs]
    exact = [x.detach().double().requires_grad_() for x in inputs]
    rows = dense_rows(exact[0] @ exact[1].T if linear else exact[0], ids, logp, tail, on, mode, direction, t)
    truth = {"none": rows, "sum": rows.sum(), "mean": rows.sum() / max(1, n)}[reduction]
    run = ops.linear_sparse_kl if linear else ops.sparse_kl
    found = run(*inputs, given_ids, given_logp, **options)
    assert_near(found, truth.detach(), dtype)
    want = torch.autograd.grad((truth * upstream).sum(), exact)
    for got, w in zip(torch.autograd.grad((found * upstream.to(found)).sum(), inputs), want, strict=True):
        assert got.dtype == dtype
        assert_near(got, w, dtype)


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(0, 6),
    v=st.integers(1, 33),
    data=st.data(),
    dtype=st.sampled_from(FLOATS),
    layout=st.sampled_from(LAYOUTS),
    temperatures=st.sampled_from([(1.0,), (0.7, 4.0)]),
    impl=st.sampled_from(["auto", "reference"]),
)
def test_support_logits(n, v, data, dtype, layout, temperatures, impl):
    g, ids, _, _, on = drawn(data, n, v)
    z = strided((torch.randn(n, v, generator=g) * 4).to(dtype), layout).requires_grad_()
    exact = z.detach().double().requires_grad_()
    found = ops.support_logits(z, ids, temperatures=temperatures, extras=("entropy", "mean", "top1"), impl=impl)
    full = on.all(1)
    tails = [(exact / t).masked_fill(on & ~full[:, None], -math.inf).logsumexp(1) for t in temperatures]
    entropies = [torch.special.entr(torch.softmax(exact / t, 1)).sum(1) for t in temperatures]
    for i in range(len(temperatures)):
        assert_near(found.tail_NT[~full, i].detach(), tails[i][~full].detach(), dtype)
        assert (found.tail_NT[full, i] == -math.inf).all()
        assert_near(found.entropy_NT[:, i].detach(), entropies[i].detach(), dtype)
    assert torch.equal(found.top1_N, z.argmax(1))
    real = ids >= 0
    value = found.tail_NT[~full].sum() + found.entropy_NT.sum() + found.mean_N.sum() + found.support_NK[real].sum()
    truth = sum(x[~full].sum() for x in tails) + sum(x.sum() for x in entropies) + exact.mean(1).sum()
    truth = truth + exact.gather(1, ids.clamp_min(0))[real].sum()
    assert_near(torch.autograd.grad(value, z)[0], torch.autograd.grad(truth, exact)[0], dtype)


@pytest.mark.parametrize("impl", ["reference", "cpu"])
@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(0, 5),
    v=st.integers(1, 40),
    d=st.integers(1, 40),
    data=st.data(),
    dtype=st.sampled_from(FLOATS),
    layouts=st.tuples(*[st.sampled_from(LAYOUTS)] * 2),
    head=st.sampled_from([{}, {"softcap": 5.0}, {"logit_scale": 0.3}, {"softcap": 9.0, "logit_scale": 2.0}]),
    with_bias=st.booleans(),
)
def test_linear_topk_logits(impl, n, v, d, data, dtype, layouts, head, with_bias):
    """Logits that differ by more than rounding: the ids are those of fp64."""
    dtype = torch.float32 if impl == "cpu" and dtype == torch.float64 else dtype
    limit = data.draw(st.integers(1, v))
    k = data.draw(st.sampled_from(sorted({0, 1, limit // 2, limit})))
    g = torch.Generator().manual_seed(data.draw(st.integers(0, 10**6)))
    hidden, weight = torch.randn(n, d, generator=g).to(dtype), (torch.randn(v, d, generator=g) / d**0.5).to(dtype)
    bias = torch.randn(v, generator=g).to(dtype) if with_bias else None
    z = hidden.double() @ weight.double().T + (0 if bias is None else bias.double())
    z = z * head.get("logit_scale", 1.0)
    z = z if "softcap" not in head else head["softcap"] * torch.tanh(z / head["softcap"])
    found = ops.linear_topk_logits(
        strided(hidden, layouts[0]), strided(weight, layouts[1]), k, temperatures=(1.0, 3.0), bias=bias,
        valid_vocab=limit, impl=impl, **head,
    )  # fmt: skip
    want = z[:, :limit].topk(k, dim=1)
    assert_near(found.logits_NK, want.values, dtype)
    assert_near(z.gather(1, found.ids_NK), want.values, dtype)  # ties up to rounding may change places
    assert all(len(set(row)) == k and max(row, default=-1) < limit for row in found.ids_NK.tolist())
    for i, t in enumerate((1.0, 3.0)):
        rest = (z[:, :limit] / t).scatter(1, found.ids_NK, -math.inf).logsumexp(1)
        assert torch.equal(found.tail_NT[:, i].isinf(), rest.isinf())
        assert_near(found.tail_NT[~rest.isinf(), i], rest[~rest.isinf()], dtype)


@pytest.mark.parametrize("impl", ["reference", "cpu"])
@pytest.mark.parametrize("method", ["threshold", "multinomial"])
@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(0, 5),
    v=st.integers(1, 60),
    data=st.data(),
    dtype=st.sampled_from(FLOATS),
    layout=st.sampled_from(LAYOUTS),
    t=st.sampled_from([0.5, 1.0, 4.0]),
)
def test_sample_support(method, impl, n, v, data, dtype, layout, t):
    """What any draw obeys, and that strides change none."""
    dtype = torch.float32 if impl == "cpu" and dtype == torch.float64 else dtype
    limit = data.draw(st.integers(1, v))
    k = data.draw(st.sampled_from(sorted({0, 1, limit // 2, limit, limit + 3})))
    g = torch.Generator().manual_seed(data.draw(st.integers(0, 10**6)))
    z = (torch.randn(n, v, generator=g) * 6).to(dtype)
    options = {"method": method, "temperature": t, "seed": 4, "valid_vocab": limit, "impl": impl}
    ids, weights = ops.sample_support(z, k, **options)
    again = ops.sample_support(strided(z, layout), k, **options)
    assert torch.equal(again[0], ids) and torch.equal(again[1], weights)
    assert ids.shape == weights.shape == (n, k)
    assert (ids < limit).all() and ((weights > 0) == (ids >= 0)).all()
    if k:
        torch.testing.assert_close(weights.double().sum(1), torch.ones(n, dtype=torch.float64), rtol=0, atol=1e-6)
    for row in ids.tolist():
        kept = [i for i in row if i >= 0]
        assert len(set(kept)) == len(kept)
        assert method == "multinomial" or len(kept) == min(k, limit)
