"""`sparse_kl` and `linear_sparse_kl`: every mode by its formula, gradients, limits, and what peers get wrong."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from distill_core import ops
from tests.ops.sparse_teacher import MODES, by_formula, teacher

CASES = [(m, "forward") for m in MODES] + [("tail", "reverse"), ("renormalized-both", "reverse")]
cases = pytest.mark.parametrize(("mode", "direction"), CASES, ids=[f"{m}-{d}" for m, d in CASES])
inf = math.inf


def arguments(p, logp, tail, mode):
    return (p.ids_NK, logp), {"tail_logp_N": tail if mode == "tail" else None, "mode": mode}


@cases
@pytest.mark.parametrize("t", [1.0, 2.5])
def test_value_and_gradient_equal_the_formula(make_problem, mode, direction, t):
    p = make_problem()
    full, logp, tail = teacher(p, temperature=t)
    truth = by_formula(p.dense(), p.ids_NK, full, mode, direction, t)
    want = torch.autograd.grad(truth.mean(), p.inputs, retain_graph=True)
    positional, options = arguments(p, logp, tail, mode)
    z = p.dense()
    for loss, rows in (
        (ops.sparse_kl(z, *positional, temperature=t, direction=direction, **options),
         ops.sparse_kl(z, *positional, temperature=t, direction=direction, reduction="none", **options)),
        (ops.linear_sparse_kl(
            p.hidden_ND, p.weight_VD, *positional, bias=p.bias_V, temperature=t, direction=direction, **options),
         ops.linear_sparse_kl(
            p.hidden_ND, p.weight_VD, *positional, bias=p.bias_V, temperature=t, direction=direction,
            reduction="none", **options)),
    ):  # fmt: skip
        torch.testing.assert_close(rows, truth, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(loss, truth.mean(), rtol=1e-10, atol=1e-10)
        for g, w in zip(torch.autograd.grad(loss, p.inputs, retain_graph=True), want, strict=True):
            torch.testing.assert_close(g, w, rtol=1e-9, atol=1e-10)
        weight = torch.linspace(-1, 2, 11, dtype=torch.float64)
        got = torch.autograd.grad((weight * rows).sum(), p.inputs, retain_graph=True)
        expected = torch.autograd.grad((weight * truth).sum(), p.inputs, retain_graph=True)
        for g, w in zip(got, expected, strict=True):
            torch.testing.assert_close(g, w, rtol=1e-9, atol=1e-9)


@cases
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("with_tail", [True, False])
def test_native_error_is_at_most_twice_torchs(make_problem, mode, direction, dtype, reduction, with_tail):
    """impl="cpu" against fp64, beside plain torch in the same dtype; the upstream gradient is not 1."""
    p = make_problem(v=203, k=7, spread=2.0)
    _, logp, tail = teacher(p)
    z = p.dense().detach().to(dtype)
    options = {"tail_logp_N": tail if with_tail else None, "mode": mode, "direction": direction, "temperature": 1.5}

    def run(logits, impl):
        x = logits.clone().requires_grad_()
        loss = ops.sparse_kl(x, p.ids_NK, logp, reduction=reduction, impl=impl, **options)
        upstream = torch.linspace(-1, 2, 11) if reduction == "none" else torch.tensor(0.3)
        (g,) = torch.autograd.grad(loss, x, upstream.to(loss.dtype))
        with torch.no_grad():
            assert torch.equal(ops.sparse_kl(x, p.ids_NK, logp, reduction=reduction, impl=impl, **options), loss)
        return loss.detach(), g

    truth, ours, plain = run(z.double(), "reference"), run(z, "cpu"), run(z, "reference")
    assert ours[0].dtype == torch.float32 and ours[1].dtype == dtype
    for want, found, torchs in zip(truth, ours, plain, strict=True):
        allowed = 2 * (torchs.double() - want).abs().max() + 1e-6 * want.abs().max().clamp_min(1)
        assert (found.double() - want).abs().max() <= allowed


@cases
def test_native_finite_difference_and_second_derivative(make_problem, mode, direction):
    """The value's finite difference is the gradient returned; create_graph gives the fp64 second derivative."""
    p = make_problem(v=29, spread=1.0)
    _, logp, tail = teacher(p)
    z = p.dense().detach().float()
    along = torch.randn(z.shape)

    def loss(x, impl="cpu"):
        return ops.sparse_kl(x, p.ids_NK, logp, tail_logp_N=tail, mode=mode, direction=direction, impl=impl)

    x = z.clone().requires_grad_()
    (g,) = torch.autograd.grad(loss(x), x)
    h = 2.0**-6
    slope = (loss(z + h * along).double() - loss(z - h * along).double()) / (2 * h)
    assert abs(slope - (g * along).sum()) <= 2e-3 * (g * along).abs().sum()

    def second(logits, impl):
        x = logits.clone().requires_grad_()
        (first,) = torch.autograd.grad(loss(x, impl), x, create_graph=True)
        return torch.autograd.grad((first.double() ** 2).sum(), x)[0].double()

    want = second(z.double(), "reference")
    assert want.abs().max() > 0
    assert (second(z, "cpu") - want).abs().max() <= 2e-5 * want.abs().max()


def test_native_stored_gradient_is_scaled_once(make_problem):
    """A second backward over a retained graph takes the gradient again; the first one's is not scaled twice."""
    p = make_problem(dtype=torch.float32)
    _, logp, tail = teacher(p)
    z = p.dense().detach().requires_grad_()
    loss = ops.sparse_kl(z, p.ids_NK, logp, tail_logp_N=tail, impl="cpu")
    first, second, third = (torch.autograd.grad(2.5 * loss, z, retain_graph=True)[0] for _ in range(3))
    assert torch.equal(first, second) and torch.equal(first, third)
    assert not torch.autograd.grad(loss, z)[0].requires_grad


def test_native_fp16_gradient_survives_a_loss_scale(make_problem):
    """With 1 / N taken into fp16 first, small entries would be 0 before the scaler's factor arrives."""
    p = make_problem(n=400, v=300, k=4)
    _, logp, _ = teacher(p)
    z = p.dense().detach().half().requires_grad_()
    (g,) = torch.autograd.grad(ops.sparse_kl(z, p.ids_NK, logp, impl="cpu") * 2.0**14, z)
    exact = z.detach().double().requires_grad_()
    (want,) = torch.autograd.grad(ops.sparse_kl(exact, p.ids_NK, logp) * 2.0**14, exact)
    small = (want.abs() > 1e-5) & (want.abs() < 1e-3)
    assert small.sum() > 100 and (g[small] != 0).all()


@cases
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_gradcheck_and_gradgradcheck(make_problem, mode, direction, reduction):
    p = make_problem(n=5, v=7, d=2, k=3, spread=1.0)
    _, logp, tail = teacher(p)
    positional, options = arguments(p, logp, tail, mode)

    def linear(hidden, weight, bias):
        return ops.linear_sparse_kl(
            hidden, weight, *positional, bias=bias, softcap=5.0, logit_scale=1.2, temperature=1.7,
            direction=direction, reduction=reduction, **options,
        )  # fmt: skip

    def dense(z):
        return ops.sparse_kl(z, *positional, temperature=1.7, direction=direction, reduction=reduction, **options)

    assert torch.autograd.gradcheck(linear, p.inputs)
    assert torch.autograd.gradgradcheck(linear, p.inputs, fast_mode=True)
    z = p.dense().detach().requires_grad_()
    assert torch.autograd.gradcheck(dense, (z,))
    assert torch.autograd.gradgradcheck(dense, (z,), fast_mode=True)


@pytest.mark.parametrize("direction", ["forward", "reverse"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_whole_vocabulary_equals_dense_kl(make_problem, direction, dtype):
    """K = V: the complement is empty, its term 0, although 1 - sum in fp32 is not exactly 0."""
    p = make_problem(v=19, k=19, dtype=dtype)
    p.ids_NK = torch.rand(11, 19).argsort(1)
    full, logp, _ = teacher(p)
    z = p.dense()
    a, b = full.to(dtype), torch.log_softmax(z, 1)
    a, b = (a, b) if direction == "forward" else (b, a)
    truth = (a.exp() * (a - b)).sum(1).mean()
    got = ops.sparse_kl(z, p.ids_NK, logp.to(dtype), direction=direction)
    torch.testing.assert_close(got, truth, rtol=1e-5, atol=1e-6)
    for g, w in zip(
        torch.autograd.grad(got, p.inputs, retain_graph=True), torch.autograd.grad(truth, p.inputs), strict=True
    ):
        torch.testing.assert_close(g, w, rtol=1e-4, atol=1e-5)
    with_tail = ops.sparse_kl(z, p.ids_NK, logp.to(dtype), tail_logp_N=torch.full((11,), -17.0), direction=direction)
    assert torch.equal(with_tail, got)


@cases
def test_no_rows_and_no_support(make_problem, mode, direction):
    p = make_problem(n=0)
    logp = torch.zeros(0, 5, dtype=torch.float64)
    for reduction in ("mean", "sum", "none"):
        options = {"mode": mode, "direction": direction, "reduction": reduction}
        loss = ops.linear_sparse_kl(p.hidden_ND, p.weight_VD, p.ids_NK, logp, **options)
        assert loss.shape == (() if reduction != "none" else (0,)) and (loss == 0).all()
        for g in torch.autograd.grad(loss.sum(), (p.hidden_ND, p.weight_VD)):
            assert (g == 0).all()
        assert (ops.sparse_kl(p.dense(), p.ids_NK, logp, **options) == 0).all()
    p = make_problem(k=0)
    loss = ops.sparse_kl(p.dense(), p.ids_NK, torch.zeros(11, 0), mode=mode, direction=direction)
    assert loss == 0.0
    assert all((g == 0).all() for g in torch.autograd.grad(loss, p.inputs))


@cases
def test_zero_and_stationary_where_student_equals_teacher(make_problem, mode, direction):
    p = make_problem()
    z = p.dense().detach()
    on = torch.zeros(11, 38, dtype=torch.bool).scatter(1, torch.where(p.ids_NK < 0, 37, p.ids_NK), True)[:, :37]
    full = torch.log_softmax(z, 1)
    tail = full.masked_fill(on, -inf).logsumexp(1)
    z.requires_grad_()
    loss = ops.sparse_kl(
        z, p.ids_NK, full.gather(1, p.ids_NK.clamp_min(0)), tail_logp_N=tail, mode=mode, direction=direction
    )
    (g,) = torch.autograd.grad(loss, z)
    if mode == "renormalized":  # the one with a constant: the student's full mass against the teacher's P
        assert loss > 1e-3
    else:
        assert abs(loss) < 1e-12
    if mode in ("tail", "renormalized-both"):
        assert g.abs().max() < 1e-12
    else:
        # Neither truncation nor renormalising the teacher alone has the teacher as fixed point.
        assert g.abs().max() > 1e-4


def test_fp32_zero_at_equality_with_the_tail_computed(make_problem):
    p = make_problem(dtype=torch.float32)
    z = p.dense().detach()
    logp, tail = ops.topk_logits(z, 5).log_probs()
    ids = ops.topk_logits(z, 5).ids_NK
    assert ops.sparse_kl(z, ids, logp, tail_logp_N=tail, reduction="none").abs().max() < 1e-6
    assert ops.linear_sparse_kl(
        p.hidden_ND, p.weight_VD, ids, logp, tail_logp_N=tail, bias=p.bias_V, reduction="none"
    ).abs().max() < 1e-6  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(1, 5),
    v=st.integers(2, 30),
    data=st.data(),
    t=st.sampled_from([0.5, 1.0, 3.0]),
    direction=st.sampled_from(["forward", "reverse"]),
    impl=st.sampled_from(["auto", "reference"]),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
)
def test_tail_mode_is_nonnegative_and_a_lower_bound(n, v, data, t, direction, impl, dtype):
    """Data-processing inequality, over shapes, paddings, temperatures and dtypes."""
    k = data.draw(st.integers(0, v))
    g = torch.Generator().manual_seed(data.draw(st.integers(0, 10**6)))
    z = (torch.randn(n, v, generator=g) * 5).to(dtype)
    full = torch.log_softmax(torch.randn(n, v, generator=g, dtype=torch.float64) * 5, 1)
    ids = torch.rand(n, v, generator=g).argsort(1)[:, :k]
    ids = torch.where(torch.rand(n, k, generator=g) < 0.2, -1, ids)
    on = torch.zeros(n, v + 1, dtype=torch.bool).scatter(1, torch.where(ids < 0, v, ids), True)[:, :v]
    tail = full.masked_fill(on, -inf).logsumexp(1)
    logp = full.gather(1, ids.clamp_min(0))
    found = ops.sparse_kl(
        z, ids, logp, tail_logp_N=tail, temperature=t, direction=direction, reduction="none", impl=impl
    ).double()
    q = torch.log_softmax(z.double() / t, 1)
    a, b = (full, q) if direction == "forward" else (q, full)
    dense = (a.exp() * (a - b)).sum(1)
    slack = 1e-5 * (1 + dense) if dtype != torch.float64 else 1e-10 * (1 + dense)
    assert (found >= -slack).all()
    assert (found <= dense + slack).all()


@pytest.mark.parametrize("impl", ["reference", "cpu"])
def test_impossible_outcomes_are_infinite_or_zero_never_nan(impl):
    z = torch.tensor([[0.0, -inf, 1.0, -inf], [0.0, 0.0, -inf, -inf]], requires_grad=True)
    ids = torch.tensor([[0, 1], [0, 1]])
    zero = torch.tensor([[0.0, -inf], [-0.7, -0.7]])
    # p = 0 where q = 0: 0. Tail impossible for the teacher: 0 log 0 = 0.
    loss = ops.sparse_kl(z, ids, zero, tail_logp_N=torch.tensor([-inf, -inf]), reduction="none", impl=impl)
    assert loss.isfinite().all()
    (g,) = torch.autograd.grad(loss.sum(), z)
    assert not g.isnan().any()
    # p > 0 where q = 0: +inf, on the support and in the tail.
    p = torch.tensor([[0.5, 0.5], [0.4, 0.4]]).log()
    loss = ops.sparse_kl(z, ids, p, tail_logp_N=torch.tensor([-inf, math.log(0.2)]), reduction="none", impl=impl)
    assert loss.tolist() == [inf, inf]
    (g,) = torch.autograd.grad(loss.sum(), z)
    assert not g.isnan().any()
    # reverse: q > 0 where p = 0
    loss = ops.sparse_kl(
        z, ids, zero, tail_logp_N=torch.tensor([-inf, -inf]), direction="reverse", reduction="none", impl=impl
    )
    assert loss[0] == inf and loss[1].isfinite()
    (g,) = torch.autograd.grad(loss.sum(), z)
    assert not g.isnan().any()


@cases
def test_rows_of_padding_and_infinities_never_give_nan(mode, direction):
    z = torch.tensor([[0.0, 1e4, -1e4], [-inf, -inf, -inf], [1.0, 2.0, 3.0], [-inf, 5.0, 5.0]], requires_grad=True)
    ids = torch.tensor([[0, 1], [0, 1], [-1, -1], [0, -1]])
    logp = torch.tensor([[-1.0, -2.0], [-1.0, -1.0], [math.nan, inf], [-inf, 3.0]])
    loss = ops.sparse_kl(z, ids, logp, mode=mode, direction=direction, reduction="none")
    assert not loss.isnan().any()
    (g,) = torch.autograd.grad(loss[[0, 2, 3]].sum(), z)
    assert not g.isnan().any()
    if mode != "tail":
        assert loss[2] == 0.0


def test_teacher_tail_default_is_one_minus_the_sum_in_fp64(peaked_tail):
    """1 - sum in fp64 of fp32 log-probabilities: the clamp holds, and the sum is not taken in fp32."""
    z, ids = peaked_tail(1e-3)
    logp64 = torch.log_softmax(z.double(), 1).gather(1, ids)
    exact = ops.sparse_kl(z, ids, logp64, tail_logp_N=torch.full((9,), math.log(1e-3), dtype=torch.float64))
    assert abs(ops.sparse_kl(z, ids, logp64) - exact) < 1e-6
    over = torch.tensor([[0.6, 0.6]]).log()
    loss = ops.sparse_kl(torch.zeros(1, 4), torch.tensor([[0, 1]]), over)
    torch.testing.assert_close(loss, torch.tensor(1.2 * (math.log(0.6) - math.log(0.25))))


def test_weights_mode_is_unbiased_for_the_dense_gradient():
    """Mean gradient over seeds of threshold samples equals softmax - p within 5 standard errors, at every logit."""
    z_teacher = torch.randn(1, 30, dtype=torch.float64) * 2
    z = torch.randn(1, 30, dtype=torch.float64)
    n = 4000
    ids, w = ops.sample_support(z_teacher.expand(n, 30), 6, seed=3)
    student = z.expand(n, 30).clone().requires_grad_()
    loss = ops.sparse_kl(student, ids, w.log(), mode="weights", reduction="sum")
    (g,) = torch.autograd.grad(loss, student)
    want = torch.softmax(z, 1) - torch.softmax(z_teacher, 1)
    error = (g.mean(0) - want[0]).abs() / (g.std(0) / n**0.5 + 1e-12)
    assert error.max() < 5


def test_stored_and_recomputed_gradients_agree(make_problem):
    """Backward, a second backward over a retained graph, and create_graph: one gradient."""
    p = make_problem()
    _, logp, tail = teacher(p)
    loss = ops.linear_sparse_kl(p.hidden_ND, p.weight_VD, p.ids_NK, logp, tail_logp_N=tail, bias=p.bias_V)
    first = torch.autograd.grad(2.5 * loss, p.inputs, retain_graph=True)
    second = torch.autograd.grad(2.5 * loss, p.inputs, retain_graph=True)
    third = torch.autograd.grad(2.5 * loss, p.inputs, create_graph=True)
    for a, b, c in zip(first, second, third, strict=True):
        assert torch.equal(a, b)
        torch.testing.assert_close(a, c, rtol=1e-11, atol=1e-12)
        assert c.requires_grad and not a.requires_grad


def test_frozen_head_and_no_grad(make_problem):
    p = make_problem()
    _, logp, tail = teacher(p)
    want = torch.autograd.grad(ops.linear_sparse_kl(p.hidden_ND, p.weight_VD, p.ids_NK, logp), p.hidden_ND)[0]
    loss = ops.linear_sparse_kl(p.hidden_ND, p.weight_VD.detach(), p.ids_NK, logp)
    assert torch.equal(torch.autograd.grad(loss, p.hidden_ND)[0], want)
    with torch.no_grad():
        assert not ops.linear_sparse_kl(p.hidden_ND, p.weight_VD, p.ids_NK, logp, tail_logp_N=tail).requires_grad
    (h,) = torch.autograd.grad(
        ops.linear_sparse_kl(p.hidden_ND, p.weight_VD.detach(), p.ids_NK, logp), p.hidden_ND, create_graph=True
    )
    assert torch.autograd.grad((h**2).sum(), p.hidden_ND)[0].abs().max() > 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_low_precision_error_is_one_rounding(make_problem, dtype):
    p = make_problem(n=40, v=211, d=16, k=9, dtype=dtype, spread=1.0)
    exact = p.double()
    _, logp, tail = teacher(exact)
    got = torch.autograd.grad(
        ops.linear_sparse_kl(p.hidden_ND, p.weight_VD, p.ids_NK, logp, tail_logp_N=tail, reduction="sum"), p.inputs[:2]
    )
    want = torch.autograd.grad(
        ops.sparse_kl(exact.dense(bias=False), exact.ids_NK, logp, tail_logp_N=tail, reduction="sum"), exact.inputs[:2]
    )
    for g, w in zip(got, want, strict=True):
        bound = torch.finfo(dtype).eps * w.abs() + 1e-5 * w.abs().max()
        assert ((g.double() - w).abs() <= bound).all()


WRONG = {
    "mode": ({"mode": "topk"}, ValueError, "mode must be one of 'tail'"),
    "direction": ({"direction": "backward"}, ValueError, "direction must be one of"),
    "reduction": ({"reduction": "batchmean"}, ValueError, "reduction must be one of"),
    "reverse-truncated": ({"mode": "truncated", "direction": "reverse"}, ValueError, 'direction="reverse" is defined'),
    "reverse-renormalized": (
        {"mode": "renormalized", "direction": "reverse"},
        ValueError,
        "tail and renormalized-both",
    ),
    "reverse-weights": ({"mode": "weights", "direction": "reverse"}, ValueError, 'mode="weights"'),
    "temperature": ({"temperature": 0.0}, ValueError, "temperature must be a positive"),
    "teacher-shape": ({"logp_NK": torch.zeros(3, 3)}, ValueError, "logp_NK must have the shape of ids_NK, [3, 2]"),
    "teacher-integer": ({"logp_NK": torch.zeros(3, 2, dtype=torch.int64)}, TypeError, "logp_NK must be floating"),
    "teacher-grad": ({"logp_NK": torch.zeros(3, 2, requires_grad=True)}, ValueError, "logp_NK is the teacher's"),
    "tail-grad": ({"tail_logp_N": torch.zeros(3, requires_grad=True)}, ValueError, "tail_logp_N is the teacher's"),
    "tail-shape": ({"tail_logp_N": torch.zeros(3, 1)}, ValueError, "tail_logp_N must be [N]"),
    "repeat": ({"ids_NK": torch.tensor([[0, 1], [2, 2], [0, 1]])}, ValueError, "row 1 of ids_NK repeats"),
    "range": ({"ids_NK": torch.tensor([[0, 1], [2, 9], [0, 1]])}, ValueError, "0 .. 4"),
}


@pytest.mark.parametrize(("change", "error", "words"), WRONG.values(), ids=WRONG)
@pytest.mark.parametrize("op", ["sparse_kl", "linear_sparse_kl"])
def test_wrong_arguments_are_named(op, change, error, words):
    given_ = {"ids_NK": torch.tensor([[0, 1], [2, 3], [4, -1]]), "logp_NK": torch.zeros(3, 2), **change}
    student = {"logits_NV": torch.zeros(3, 5)}
    if op == "linear_sparse_kl":
        student = {"hidden_ND": torch.zeros(3, 4), "weight_VD": torch.zeros(5, 4)}
    with pytest.raises(error) as caught:
        getattr(ops, op)(**student, **given_)
    assert words in str(caught.value)
