"""`support_logits` and `linear_support_logits` against dense fp64 torch: value, gradient, second derivative."""

from __future__ import annotations

import math

import pytest
import torch

from distill_core import ops
from distill_core.ops.head import Head
from distill_core.ops.support_logits import chunked
from distill_core.ops.support_logits.reference import support_statistics

EXTRAS = ("mean", "entropy", "top1")
# softcap, logit scale, temperatures, extras: one-exponential path, several temperatures, cap, entropy
HEADS = {
    "plain": (None, 1.0, (1.0,), ()),
    "scaled-hot": (None, 0.7, (2.5,), ()),
    "two-temperatures": (None, 1.0, (1.0, 0.5), ()),
    "softcap": (4.0, 1.3, (1.0,), ()),
    "mean": (None, 1.5, (1.0,), ("mean", "top1")),
    "entropy": (None, 1.0, (2.0,), ("entropy",)),
    "everything": (5.0, 0.8, (1.0, 3.0), EXTRAS),
}
ON_LOGITS = {name: h for name, h in HEADS.items() if h[0] is None and h[1] == 1.0}
both = pytest.mark.parametrize("impl", ["reference", "cpu"])


def parametrize(table):
    return pytest.mark.parametrize("head", table.values(), ids=table)


def dense_fields(z, ids, labels, temperatures, extras):
    """What each field means, by the plainest dense formula, one row at a time."""
    out = {"support": [], "tail": [], "label": [], "mean": [], "entropy": [], "top1": []}
    for row, support, label in zip(z, ids, labels, strict=True):
        real = support[support >= 0].long()
        rest = torch.ones(row.shape[0], dtype=torch.bool)
        rest[real] = False
        out["support"].append(torch.cat([row[i][None] if i >= 0 else row.new_zeros(1) for i in support.tolist()]))
        out["tail"].append(torch.stack([torch.logsumexp(row[rest] / t, 0) for t in temperatures]))
        out["label"].append(row[label] if label >= 0 else row.new_zeros(()))
        out["mean"].append(row.mean())
        q = [torch.softmax(row / t, 0) for t in temperatures]
        out["entropy"].append(torch.stack([-(p * p.log()).sum() for p in q]))
        out["top1"].append(row.argmax())
    return {name: torch.stack(v) for name, v in out.items() if name not in EXTRAS or name in extras}


def op_fields(s):
    """The same fields of a SupportLogits; padding reads 0."""
    out = {"support": s.support_NK.masked_fill(s.padding_NK, 0.0), "tail": s.tail_NT, "label": s.label_N}
    for name, value in (("mean", s.mean_N), ("entropy", s.entropy_NT), ("top1", s.top1_N)):
        if value is not None:
            out[name] = value
    return out


def mixture(fields):
    """A scalar that depends on every differentiable field with different, signed weights."""
    g = torch.Generator().manual_seed(7)
    total = 0.0
    for name in ("support", "tail", "label", "mean", "entropy"):
        if name in fields:
            x = fields[name]
            weight = torch.randn(x.shape, generator=g, dtype=torch.float64)
            total = total + (weight * x.double()).sum() + 0.1 * (x.double() ** 2).sum()
    return total


def linear(p, head, *, bias=True):
    softcap, scale, temperatures, extras = head
    return ops.linear_support_logits(
        p.hidden_ND,
        p.weight_VD,
        p.ids_NK,
        bias=p.bias_V if bias else None,
        labels_N=p.labels_N,
        temperatures=temperatures,
        softcap=softcap,
        logit_scale=scale,
        extras=extras,
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
