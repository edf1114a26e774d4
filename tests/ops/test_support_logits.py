"""`support_logits` and `linear_support_logits` against dense fp64 torch: value, gradient, second derivative."""

from __future__ import annotations

import math

import pytest
import torch

from distill_core import ops
from distill_core.ops.head import Head
from distill_core.ops.support_logits import chunked
from distill_core.ops.support_logits.reference import support_statistics
from tests.ops.support_heads import (
    EXTRAS,
    HEADS,
    ON_LOGITS,
    both,
    dense_fields,
    linear,
    mixture,
    op_fields,
    parametrize,
)


@parametrize(HEADS)
def test_linear_value_and_gradient_equal_dense(make_problem, head):
    p = make_problem()
    truth = dense_fields(p.dense(softcap=head[0], scale=head[1]), p.ids_NK, p.labels_N, head[2], head[3])
    found = op_fields(linear(p, head))
    assert found.keys() == truth.keys()
    for name in truth:
        torch.testing.assert_close(found[name], truth[name], rtol=1e-11, atol=1e-11)
    want = torch.autograd.grad(mixture(truth), p.inputs)
    for got, expected in zip(torch.autograd.grad(mixture(found), p.inputs), want, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10)


@parametrize(ON_LOGITS)
def test_logits_value_and_gradient_equal_dense(make_problem, head):
    p = make_problem()
    z = p.dense().detach().requires_grad_()
    truth = dense_fields(z, p.ids_NK, p.labels_N, head[2], head[3])
    found = op_fields(ops.support_logits(z, p.ids_NK, labels_N=p.labels_N, temperatures=head[2], extras=head[3]))
    for name in truth:
        torch.testing.assert_close(found[name], truth[name], rtol=1e-11, atol=1e-11)
    (want,) = torch.autograd.grad(mixture(truth), z)
    (got,) = torch.autograd.grad(mixture(found), z)
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-10)


@parametrize(ON_LOGITS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("v", [1, 37, 2048, 5003])
def test_native_error_is_at_most_twice_torchs(make_problem, head, dtype, v):
    """Value and gradient of impl="cpu" against fp64, beside the error of plain torch in the same dtype."""
    p = make_problem(v=v, k=min(v, 5))
    z = p.dense().detach().to(dtype)

    def run(logits, impl):
        z_ = logits.clone().requires_grad_()
        s = ops.support_logits(z_, p.ids_NK, labels_N=p.labels_N, temperatures=head[2], extras=head[3], impl=impl)
        found = {n: x for n, x in op_fields(s).items() if x.isfinite().all()}
        return {**found, "gradient": torch.autograd.grad(mixture(found), z_)[0]}

    truth, ours, plain = run(z.double(), "reference"), run(z, "cpu"), run(z, "reference")
    assert ours["tail"].dtype == torch.float32 if "tail" in ours else v == 1
    for name, want in truth.items():
        error, torchs = ((found[name].double() - want).abs().max() for found in (ours, plain))
        assert error <= 2 * torchs + 2e-6 * want.abs().max().clamp_min(0.1), name


@parametrize(ON_LOGITS)
def test_native_second_derivative_equals_fp64(make_problem, head):
    p = make_problem()
    z = p.dense().detach() / 3

    def second(logits, impl):
        x = logits.clone().requires_grad_()
        s = ops.support_logits(x, p.ids_NK, labels_N=p.labels_N, temperatures=head[2], extras=head[3], impl=impl)
        (first,) = torch.autograd.grad(mixture(op_fields(s)), x, create_graph=True)
        return torch.autograd.grad((first.double() ** 3).sum(), x)[0].double()

    want = second(z, "reference")
    assert want.abs().max() > 0
    assert (second(z.float(), "cpu") - want).abs().max() <= 2e-5 * want.abs().max()


@parametrize(HEADS)
def test_reference_statistics_equal_dense(make_problem, head):
    """The plain reference that kernels are measured against is itself measured, with its autograd gradient."""
    p = make_problem()
    z = p.dense(softcap=head[0], scale=head[1])
    truth = dense_fields(z, p.ids_NK, p.labels_N, head[2], head[3])
    s = support_statistics(z, p.ids_NK, p.labels_N, head[2], head[3])
    found = {"support": s.support_NK.masked_fill(p.ids_NK < 0, 0.0), "tail": s.tail_NT, "label": s.label_N}
    found |= {n: getattr(s, f) for n, f in (("mean", "mean_N"), ("entropy", "entropy_NT")) if n in head[3]}
    for name in found:
        torch.testing.assert_close(found[name], truth[name], rtol=1e-11, atol=1e-11)
    got = torch.autograd.grad(mixture(found), p.inputs, retain_graph=True)
    for g, w in zip(got, torch.autograd.grad(mixture({n: truth[n] for n in found}), p.inputs), strict=True):
        torch.testing.assert_close(g, w, rtol=1e-10, atol=1e-10)


@parametrize(HEADS)
def test_gradcheck_and_gradgradcheck_linear(make_problem, head):
    p = make_problem(n=6, v=9, d=3, k=3, spread=1.0)

    def fields(hidden, weight, bias):
        p.hidden_ND, p.weight_VD, p.bias_V = hidden, weight, bias
        found = op_fields(linear(p, head))
        return tuple(v for name, v in found.items() if name != "top1")

    inputs = p.inputs
    assert torch.autograd.gradcheck(fields, inputs)
    assert torch.autograd.gradgradcheck(fields, inputs)


@parametrize(ON_LOGITS)
def test_gradcheck_and_gradgradcheck_logits(make_problem, head):
    p = make_problem(n=6, v=9, d=3, k=3, spread=1.0)
    z = p.dense().detach().requires_grad_()

    def fields(logits):
        s = ops.support_logits(logits, p.ids_NK, labels_N=p.labels_N, temperatures=head[2], extras=head[3])
        return tuple(v for name, v in op_fields(s).items() if name != "top1")

    assert torch.autograd.gradcheck(fields, (z,))
    assert torch.autograd.gradgradcheck(fields, (z,))


def test_second_derivative_over_many_chunks_equals_dense(make_problem, monkeypatch):
    """Chunk boundaries inside the double backward: 1 row per chunk and all rows at once."""
    p = make_problem(n=7)
    results = []
    for limit in (8 * 37, 2**20):
        monkeypatch.setattr("distill_core.ops.row_chunks.MAX_CHUNK_BYTES", limit)
        first = torch.autograd.grad(mixture(op_fields(linear(p, HEADS["everything"]))), p.inputs, create_graph=True)
        results.append(torch.autograd.grad(sum((g**3).sum() for g in first), p.inputs))
    truth = dense_fields(p.dense(softcap=5.0, scale=0.8), p.ids_NK, p.labels_N, (1.0, 3.0), EXTRAS)
    first = torch.autograd.grad(mixture(truth), p.inputs, create_graph=True)
    want = torch.autograd.grad(sum((g**3).sum() for g in first), p.inputs)
    for got in results:
        for g, w in zip(got, want, strict=True):
            torch.testing.assert_close(g, w, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("needs", [(1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 0, 1), (0, 1, 1), (1, 1, 0)])
def test_every_requires_grad_combination(make_problem, needs):
    p = make_problem()
    want = torch.autograd.grad(mixture(op_fields(linear(p, HEADS["softcap"]))), p.inputs)
    for x, need in zip(p.inputs, needs, strict=True):
        x.requires_grad_(bool(need))
    wanted = [x for x in p.inputs if x.requires_grad]
    loss = mixture(op_fields(linear(p, HEADS["softcap"])))
    first = torch.autograd.grad(loss, wanted, create_graph=True)
    for got, x in zip(first, wanted, strict=True):
        torch.testing.assert_close(got, want[[x is y for y in p.inputs].index(True)])
    second = torch.autograd.grad(sum((g**2).sum() for g in first), wanted, allow_unused=True)
    assert all(s is None or s.isfinite().all() for s in second)
    # One of the two vector-Jacobian products must depend on each input: the softcap makes the loss nonlinear in all.
    assert all(s is not None and s.abs().sum() > 0 for s in second)


@pytest.mark.parametrize("rows", [1, 2, 3, 10, 11, 1000])
def test_chunk_size_changes_nothing(make_problem, rows):
    p = make_problem()
    head = Head(p.weight_VD.detach(), p.bias_V.detach(), 5.0, 0.8, torch.float64)
    source = chunked.LinearSource(p.hidden_ND.detach(), head)
    request = chunked.Request(p.ids_NK, p.labels_N, (1.0, 3.0), EXTRAS, 5.0, 0.8)
    whole, cut = chunked.forward(source, request), chunked.forward(source, request, rows)
    for a, b in zip(whole, cut, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
    cotangents = chunked.Cotangents(*(torch.randn_like(x) for x in whole[:5]))
    a3 = chunked.linear_backward(source, request, whole.tail_NT, cotangents, (True, True, True))
    b3 = chunked.linear_backward(source, request, whole.tail_NT, cotangents, (True, True, True), rows)
    for a, b in zip(a3, b3, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-11)


@both
@pytest.mark.parametrize("qbar", [1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8])
def test_tail_and_its_gradient_in_fp32_down_to_tiny_masses(peaked_tail, qbar, impl):
    """Relative error 3e-6 of value and of the complement's gradient, at every tail mass."""
    z32, ids = peaked_tail(qbar)
    z64 = z32.double().requires_grad_()
    z32.requires_grad_()
    on = torch.zeros_like(z64, dtype=torch.bool).scatter(1, ids, True)
    truth = (z64.masked_fill(on, -math.inf).logsumexp(1)) - z64.logsumexp(1)
    # t / qbar moderate, as where teacher and student nearly agree: d/dz of t (log t - log qbar) - sum p log q
    t = 2.0 * qbar
    lp = torch.log_softmax(z64, 1).gather(1, ids)
    loss64 = (-t * truth - ((1 - t) / 4) * lp.sum(1)).sum()
    (want,) = torch.autograd.grad(loss64, z64)
    found = ops.support_logits(z32, ids, impl=impl).log_probs()
    loss32 = (-t * found[:, -1] - ((1 - t) / 4) * found[:, :-1].sum(1)).sum()
    (got,) = torch.autograd.grad(loss32, z32)
    assert ((found[:, -1] - truth) / truth).abs().max() < 2e-6
    assert ((found[:, -1].double().exp() - truth.exp()) / truth.exp()).abs().max() < 3e-6 * max(1, -math.log(qbar))
    # Off the support the gradient is g_tail * softmax: relative to its own size, not to the row's.
    error = ((got - want)[~on].abs()).max() / want[~on].abs().max()
    assert error < 2e-5
    assert ((got - want).abs().max() / want.abs().max()) < 5e-6


def test_peer_full_softmax_gradient_form_cancels(peaked_tail):
    """The form u + s q, as peers write it in fp32, loses the complement's gradient at a tail of 1e-6; ours does not."""
    qbar, t = 1e-6, 1.1e-6
    z32, ids = peaked_tail(qbar)
    on = torch.zeros_like(z32, dtype=torch.bool).scatter(1, ids, True)
    z64 = z32.double()
    q64 = torch.softmax(z64, 1)
    p = q64.gather(1, ids) * (1 - t) / (1 - q64.masked_fill(on, 0).sum(1, keepdim=True))
    exact = (q64 * (1 - t / q64.masked_fill(on, 0).sum(1, keepdim=True)))[~on]
    q32, p32 = torch.softmax(z32, 1), p.float()
    u = -p32 + t * q32.gather(1, ids) / (1 - q32.gather(1, ids).sum(1, keepdim=True))
    peer = (q32 * -u.sum(1, keepdim=True))[~on]
    z = z32.clone().requires_grad_()
    tail = torch.full((z.shape[0],), t, dtype=torch.float64).log()
    (ours,) = torch.autograd.grad(ops.sparse_kl(z, ids, p.log(), tail_logp_N=tail, reduction="sum"), z)
    assert ((peer - exact).abs().max() / exact.abs().max()) > 0.05
    assert ((ours[~on] - exact).abs().max() / exact.abs().max()) < 1e-4


def test_label_smoothing_and_z_loss_through_the_extras(make_problem):
    """(1 - e) CE + e (lse - mean) + lambda lse^2 against its dense gradient."""
    p = make_problem()
    s = linear(p, (None, 1.0, (1.0,), ("mean",)))
    lse = s.logsumexp()
    loss = (0.9 * s.cross_entropy() + 0.1 * (lse - s.mean_N) + 1e-3 * lse**2).sum()
    z = p.dense()
    dense_lse = z.logsumexp(1)
    ce = torch.nn.functional.cross_entropy(z, p.labels_N, reduction="none", ignore_index=-100)
    truth = (0.9 * ce + 0.1 * (dense_lse - z.mean(1)) + 1e-3 * dense_lse**2).sum()
    torch.testing.assert_close(loss, truth)
    want = torch.autograd.grad(truth, p.inputs)
    for g, w in zip(torch.autograd.grad(loss, p.inputs), want, strict=True):
        torch.testing.assert_close(g, w, rtol=1e-10, atol=1e-10)


def test_shift_invariance_and_zero_sum_gradient(make_problem):
    p = make_problem()
    z = p.dense().detach().requires_grad_()
    a = ops.support_logits(z, p.ids_NK).log_probs()
    b = ops.support_logits(z + 17.0, p.ids_NK).log_probs()
    torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)
    (g,) = torch.autograd.grad((a.exp() ** 2).sum(), z)
    assert g.abs().max() > 1e-3
    assert g.sum(1).abs().max() < 1e-12


def test_vocabulary_permutation_changes_nothing(make_problem):
    p = make_problem()
    order = torch.randperm(37)
    where = torch.empty_like(order).scatter(0, order, torch.arange(37))
    a = linear(p, HEADS["plain"], bias=False)
    moved = torch.where(p.ids_NK < 0, -1, where[p.ids_NK.clamp_min(0)])
    b = ops.linear_support_logits(p.hidden_ND, p.weight_VD[order], moved)
    torch.testing.assert_close(a.log_probs(), b.log_probs(), rtol=1e-11, atol=1e-11)
