"""Inputs of every kind to `support_logits` and `linear_support_logits`: sizes, dtypes, strides, hostile, wrong ones."""

from __future__ import annotations

import math

import pytest
import torch

from distill_core import ops
from tests.ops.support_heads import HEADS, both, linear


@pytest.mark.parametrize("k", [0, 1, 36, 37])
def test_support_sizes_up_to_the_vocabulary(make_problem, k):
    """K = 0: the tail is the whole row. K = V: the complement is empty, its tail -inf; nothing becomes NaN."""
    p = make_problem(k=k)
    p.ids_NK = torch.rand(11, 37).argsort(1)[:, :k]
    z = p.dense().detach().requires_grad_()
    for s, inputs in (
        (ops.support_logits(z, p.ids_NK, temperatures=(1.0, 2.0)), (z,)),
        (
            ops.linear_support_logits(p.hidden_ND, p.weight_VD, p.ids_NK, bias=p.bias_V, temperatures=(1.0, 2.0)),
            p.inputs,
        ),
    ):
        assert s.log_probs(2.0).shape == (11, k + 1)
        torch.testing.assert_close(s.log_probs(2.0).exp().sum(1), torch.ones(11, dtype=torch.float64))
        torch.testing.assert_close(s.logsumexp(2.0), torch.logsumexp(p.dense() / 2, 1), check_dtype=False)
        if k == 37:
            assert (s.tail_NT == -math.inf).all()
            assert (s.log_probs()[:, -1] == -math.inf).all()
        grads = torch.autograd.grad((s.log_probs(2.0, floor=-69.0) ** 2).sum(), inputs)
        dense = torch.log_softmax(p.dense() if len(inputs) == 3 else z, 1)
        lp = torch.log_softmax((p.dense() if len(inputs) == 3 else z) / 2, 1)
        inside = lp.gather(1, p.ids_NK)
        loss = (inside**2).sum()
        if k < 37:
            outside = lp.masked_fill(torch.zeros_like(dense, dtype=torch.bool).scatter(1, p.ids_NK, True), -math.inf)
            loss = loss + (outside.logsumexp(1) ** 2).sum()
        for g, w in zip(grads, torch.autograd.grad(loss, inputs), strict=True):
            torch.testing.assert_close(g, w, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("k", [0, 3])
def test_no_rows(make_problem, k):
    p = make_problem(n=0, k=k)
    s = linear(p, HEADS["everything"])
    assert s.log_probs(3.0).shape == (0, k + 1)
    assert s.cross_entropy().shape == (0,)
    loss = s.log_probs().sum() + s.cross_entropy().sum() + s.entropy_NT.sum()
    for g, x in zip(torch.autograd.grad(loss, p.inputs), p.inputs, strict=True):
        assert g.shape == x.shape and (g == 0).all()
    for impl in ("reference", "cpu"):
        z = torch.zeros(0, 37, requires_grad=True)
        (g,) = torch.autograd.grad(ops.support_logits(z, p.ids_NK, impl=impl).logsumexp().sum(), z)
        assert g.shape == (0, 37)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
def test_low_precision_inputs_give_fp32_results(make_problem, dtype):
    p = make_problem(n=33, v=301, d=24, k=7, dtype=dtype, spread=1.0)
    exact = p.double()
    s, truth = linear(p, HEADS["softcap"]), linear(exact, HEADS["softcap"])
    assert s.tail_NT.dtype == s.support_NK.dtype == torch.float32
    torch.testing.assert_close(s.tail_NT.double(), truth.tail_NT, rtol=1e-5, atol=1e-5)
    grads = torch.autograd.grad(s.log_probs(floor=-9.0).pow(2).sum() + s.cross_entropy().sum(), p.inputs)
    want = torch.autograd.grad(truth.log_probs(floor=-9.0).pow(2).sum() + truth.cross_entropy().sum(), exact.inputs)
    for g, w, x in zip(grads, want, p.inputs, strict=True):
        assert g.dtype == x.dtype
        # One rounding of the exact gradient, plus fp32 arithmetic.
        bound = torch.finfo(dtype).eps * w.abs() + 2e-5 * w.abs().max()
        assert ((g.double() - w).abs() <= bound).all()


def test_mixed_dtypes_of_hidden_weight_and_bias(make_problem):
    p = make_problem(dtype=torch.float32, spread=1.0)
    hidden = p.hidden_ND.detach().bfloat16().requires_grad_()
    s = ops.linear_support_logits(hidden, p.weight_VD, p.ids_NK, bias=p.bias_V.double())
    truth = torch.logsumexp(hidden.double() @ p.weight_VD.double().T + p.bias_V.double(), 1)
    torch.testing.assert_close(s.logsumexp().double(), truth, rtol=1e-6, atol=1e-6)
    grads = torch.autograd.grad(s.logsumexp().sum(), (hidden, p.weight_VD))
    assert [g.dtype for g in grads] == [torch.bfloat16, torch.float32]


def test_autocast_does_not_round_the_logits(make_problem):
    p = make_problem(dtype=torch.float32)
    plain = linear(p, HEADS["plain"])
    with torch.autocast("cpu", torch.bfloat16):
        under = linear(p, HEADS["plain"])
        loss = under.logsumexp().sum()
    assert torch.equal(plain.tail_NT, under.tail_NT)
    got = torch.autograd.grad(loss, p.inputs)
    for g, w in zip(got, torch.autograd.grad(plain.logsumexp().sum(), p.inputs), strict=True):
        assert torch.equal(g, w)


def test_strides_and_int32_ids(make_problem):
    p = make_problem()
    want = linear(p, HEADS["plain"])
    loss_want = torch.autograd.grad(want.logsumexp().sum() + want.cross_entropy().sum(), p.inputs)
    hidden = torch.stack([p.hidden_ND, p.hidden_ND * 9], 2)[..., 0]
    weight = p.weight_VD.T.contiguous().T
    wide = torch.full((11, 9), 3)
    wide[:, 2:7] = p.ids_NK
    s = ops.linear_support_logits(
        hidden, weight, wide[:, 2:7].int(), bias=p.bias_V, labels_N=p.labels_N.int(), temperatures=(1.0,)
    )
    # A product of transposed operands may sum in another order.
    torch.testing.assert_close(s.support_NK, want.support_NK, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(s.tail_NT, want.tail_NT, rtol=1e-12, atol=1e-12)
    got = torch.autograd.grad(s.logsumexp().sum() + s.cross_entropy().sum(), p.inputs)
    for g, w in zip(got, loss_want, strict=True):
        torch.testing.assert_close(g, w, rtol=1e-11, atol=1e-11)
    z = p.dense().detach()
    transposed = ops.support_logits(z.T.contiguous().T, p.ids_NK)
    assert torch.equal(transposed.tail_NT, ops.support_logits(z, p.ids_NK).tail_NT)


@both
def test_hostile_logits_never_give_nan(impl):
    """-inf, +-1e4 and equal logits; padding everywhere; a row with nothing possible."""
    inf = math.inf
    z = torch.tensor(
        [
            [0.0, -inf, 1e4, -1e4],
            [-inf, -inf, -inf, 2.0],
            [1e4, 1e4, 1e4, 1e4],
            [-inf, -inf, -inf, -inf],
            [3.0, -inf, -inf, -inf],
        ],
        requires_grad=True,
    )
    ids = torch.tensor([[0, 1], [3, -1], [-1, -1], [0, 2], [0, 1]])
    s = ops.support_logits(z, ids, temperatures=(1.0, 2.0), extras=("entropy",), impl=impl)
    lp = s.log_probs(2.0)
    assert not lp.isnan().any() and not s.entropy_NT.isnan().any()
    torch.testing.assert_close(lp.exp().sum(1), torch.tensor([1.0, 1.0, 1.0, 0.0, 1.0]))
    assert lp[4].tolist() == [0.0, -inf, -inf]
    for t in (1.0, 2.0):
        (g,) = torch.autograd.grad(s.log_probs(t).exp().pow(2).sum() + s.entropy_NT.sum(), z, retain_graph=True)
        assert not g.isnan().any()
    loss = (s.log_probs(2.0, floor=-69.0).clamp_min(-69.0) ** 2).sum()
    (g,) = torch.autograd.grad(loss, z, create_graph=True)
    assert not g.isnan().any()
    (gg,) = torch.autograd.grad((g**2).sum(), z)
    assert not gg.isnan().any()


# Arguments: (change, exception, words that must be in the message)
WRONG = {
    "hidden-3d": (lambda k: {**k, "hidden_ND": torch.zeros(2, 3, 4)}, ValueError, "hidden_ND"),
    "hidden-int": (lambda k: {**k, "hidden_ND": torch.zeros(3, 4, dtype=torch.int64)}, TypeError, "floating point"),
    "widths": (lambda k: {**k, "weight_VD": torch.zeros(9, 5)}, ValueError, "last dimensions must be equal"),
    "no-vocabulary": (lambda k: {**k, "weight_VD": torch.zeros(0, 4)}, ValueError, "at least one vocabulary entry"),
    "bias": (lambda k: {**k, "bias": torch.zeros(8)}, ValueError, "bias must be [9]"),
    "softcap": (lambda k: {**k, "softcap": 0.0}, ValueError, "softcap must be a positive number"),
    "scale": (lambda k: {**k, "logit_scale": math.nan}, ValueError, "logit_scale must be finite"),
    "ids-rows": (lambda k: {**k, "ids_NK": torch.zeros(2, 1, dtype=torch.int64)}, ValueError, "N = 3"),
    "ids-dtype": (lambda k: {**k, "ids_NK": torch.zeros(3, 1)}, TypeError, "int32 or int64"),
    "ids-range": (lambda k: {**k, "ids_NK": torch.tensor([[9], [0], [1]])}, ValueError, "0 .. 8"),
    "ids-below": (lambda k: {**k, "ids_NK": torch.tensor([[-2], [0], [1]])}, ValueError, "-1 for padding"),
    "ids-repeat": (lambda k: {**k, "ids_NK": torch.tensor([[1, 2], [3, 3], [0, 1]])}, ValueError, "row 1 of ids_NK"),
    "labels": (lambda k: {**k, "labels_N": torch.tensor([0, 9, 0])}, ValueError, "row 1 holds 9"),
    "labels-shape": (lambda k: {**k, "labels_N": torch.tensor([[0, 0, 0]])}, ValueError, "labels_N must be [N]"),
    "temperature-0": (lambda k: {**k, "temperatures": (1.0, 0.0)}, ValueError, "positive"),
    "temperature-twice": (lambda k: {**k, "temperatures": (1.0, 1.0)}, ValueError, "different"),
    "temperature-none": (lambda k: {**k, "temperatures": ()}, ValueError, "one or more"),
    "temperature-float": (lambda k: {**k, "temperatures": 1.0}, TypeError, "tuple such as"),
    "extras": (lambda k: {**k, "extras": ("entropie",)}, ValueError, "'entropie'"),
    "extras-string": (lambda k: {**k, "extras": "mean"}, TypeError, "tuple such as"),
    "impl": (lambda k: {**k, "impl": "fast"}, ValueError, "impl must be one of"),
}


@pytest.mark.parametrize(("change", "error", "words"), WRONG.values(), ids=WRONG)
def test_wrong_arguments_are_named(change, error, words):
    good = {
        "hidden_ND": torch.zeros(3, 4),
        "weight_VD": torch.zeros(9, 4),
        "ids_NK": torch.tensor([[0, -1], [1, 2], [3, 4]]),
    }
    ops.linear_support_logits(**good)
    with pytest.raises(error) as caught:
        ops.linear_support_logits(**change(good))
    assert words in str(caught.value) and "linear_support_logits" in str(caught.value)


@both
def test_padding_may_repeat(impl):
    s = ops.support_logits(torch.zeros(1, 4), torch.tensor([[-1, 2, -1]]), impl=impl)
    torch.testing.assert_close(s.log_probs().exp(), torch.tensor([[0.0, 0.25, 0.0, 0.75]]))
