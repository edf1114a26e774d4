"""`sparse_distill_loss` against autograd over the whole batch, and its refusals."""

from __future__ import annotations

import gc

import pytest
import torch

from distill_core import ops
from distill_core.ops.sparse_distill_loss.reference import summed_loss

HEADS = {
    "plain": {},
    "hot": {"temperatures": (2.5,), "logit_scale": 0.6},  # the tile's one-exponential path
    "softcap": {"softcap": 4.0, "logit_scale": 1.3, "temperatures": (1.0, 2.0)},
    "extras": {"temperatures": (2.0,), "extras": ("mean", "entropy", "top1")},
}


def row_loss(s, rows, *, weight_N=None, mix=None):
    """Reads everything there is; rows have different weights."""
    t = s.temperatures[-1]
    lp = s.log_probs(t, floor=-30.0)
    loss = -(lp * torch.linspace(0.1, 1, lp.shape[1], dtype=lp.dtype)).sum(1) + 0.3 * lp[:, -1].exp()
    if s.labels_N is not None and 1.0 in s.temperatures:
        loss = loss + s.cross_entropy()
    if s.entropy_NT is not None:
        loss = loss + s.entropy_NT[:, 0] * s.mean_N + (s.top1_N % 3)
    if mix is not None:
        loss = loss * mix.exp()
    return loss if weight_N is None else loss * weight_N[rows]


def truth(p, loss_fn, **head):
    s = ops.linear_support_logits(p.hidden_ND, p.weight_VD, p.ids_NK, bias=p.bias_V, labels_N=p.labels_N, **head)
    return summed_loss(s, loss_fn)


def fused(p, loss_fn, **options):
    return ops.sparse_distill_loss(
        p.hidden_ND, p.weight_VD, p.ids_NK, loss_fn, bias=p.bias_V, labels_N=p.labels_N, **options
    )


@pytest.mark.parametrize("rows", [1, 4, 11, None])
@pytest.mark.parametrize("upstream", [1.0, -2.5])
@pytest.mark.parametrize("head", HEADS.values(), ids=HEADS)
def test_value_and_gradient_equal_autograd(make_problem, head, upstream, rows):
    p = make_problem()
    weight_N = torch.rand(11, dtype=torch.float64)
    mix = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)

    def loss_fn(s, r):
        return row_loss(s, r, weight_N=weight_N, mix=mix)

    want, got = truth(p, loss_fn, **head), fused(p, loss_fn, params=(mix,), chunk_rows=rows, **head)
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)
    inputs = (*p.inputs, mix)
    expected = torch.autograd.grad(upstream * want, inputs)
    for g, w in zip(torch.autograd.grad(upstream * got, inputs), expected, strict=True):
        torch.testing.assert_close(g, w, rtol=1e-10, atol=1e-10)


def test_finite_difference_of_the_value_equals_the_gradient(make_problem):
    """Any chunking, temperature squared nowhere hidden: gradcheck on the fused loss itself, one fresh call each."""
    p = make_problem(n=5, v=9, d=3, k=3, spread=1.0)
    inputs = [x.detach() for x in p.inputs]

    def value(i, x):
        trial = [*inputs[:i], x, *inputs[i + 1 :]]
        loss = ops.sparse_distill_loss(
            trial[0], trial[1], p.ids_NK, row_loss, bias=trial[2], temperatures=(2.0,), softcap=6.0, chunk_rows=2
        )
        return loss

    for i, x in enumerate(inputs):
        leaf = x.clone().requires_grad_()
        (g,) = torch.autograd.grad(value(i, leaf), leaf)
        direction = torch.randn_like(x)
        h = 1e-5
        slope = (value(i, x + h * direction) - value(i, x - h * direction)) / (2 * h)
        torch.testing.assert_close((g * direction).sum(), slope, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("needs", [(1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 0, 1), (0, 1, 1), (0, 0, 0)])
def test_frozen_inputs_get_none_and_the_others_do_not_change(make_problem, needs):
    p = make_problem()
    mix = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    want = torch.autograd.grad(fused(p, lambda s, r: row_loss(s, r, mix=mix), params=(mix,)), (*p.inputs, mix))
    for x, need in zip(p.inputs, needs, strict=True):
        x.requires_grad_(bool(need))
    fused(p, lambda s, r: row_loss(s, r, mix=mix), params=(mix,)).backward()
    for x, need, w in zip(p.inputs, needs, want, strict=False):
        assert (x.grad is not None) == bool(need)
        if need:
            assert torch.equal(x.grad, w)
    torch.testing.assert_close(mix.grad, want[3])


def test_frozen_head_allocates_no_weight_gradient(make_problem):
    p = make_problem(n=8, v=4001, d=64, k=4, dtype=torch.float32)
    weight = p.weight_VD.detach()
    with torch.profiler.profile(profile_memory=True, record_shapes=True) as profile:
        ops.sparse_distill_loss(p.hidden_ND, weight, p.ids_NK, row_loss).backward()
    largest = max(e.cpu_memory_usage for e in profile.events())
    assert largest < weight.numel() * 4


def test_no_grad_gives_the_value_alone(make_problem):
    p = make_problem()
    want = fused(p, row_loss)
    with torch.no_grad():
        value = fused(p, row_loss)
    assert not value.requires_grad
    assert torch.equal(value, want.detach())


@pytest.mark.parametrize("needs", [True, False])
def test_no_rows(make_problem, needs):
    p = make_problem(n=0)
    for x in p.inputs:
        x.requires_grad_(needs)
    mix = torch.ones((), dtype=torch.float64, requires_grad=True)

    def never(s, rows):
        raise AssertionError("there is no row")

    loss = fused(p, never, params=(mix,))
    assert loss.item() == 0.0
    loss.backward()
    assert mix.grad == 0.0
    if needs:
        for x in p.inputs:
            assert x.grad.shape == x.shape and (x.grad == 0).all()


@pytest.mark.parametrize("k", [0, 1, 37])
def test_support_sizes(make_problem, k):
    p = make_problem(k=k)
    p.ids_NK = torch.rand(11, 37).argsort(1)[:, :k]
    want, got = truth(p, row_loss), fused(p, row_loss, chunk_rows=4)
    torch.testing.assert_close(got, want)
    expected = torch.autograd.grad(want, p.inputs)
    for g, w in zip(torch.autograd.grad(got, p.inputs), expected, strict=True):
        torch.testing.assert_close(g, w, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
def test_weight_gradient_accumulates_in_fp32(make_problem, dtype):
    """64 chunks: one rounding at the end, not one per chunk."""
    p = make_problem(n=64, v=101, d=8, k=5, dtype=dtype, spread=1.0)
    p.labels_N.clamp_min_(0)
    exact = p.double()
    got = torch.autograd.grad(fused(p, row_loss, chunk_rows=1), p.inputs)
    want = torch.autograd.grad(truth(exact, row_loss), exact.inputs)
    for g, w in zip(got, want, strict=True):
        assert g.dtype == dtype
        bound = torch.finfo(dtype).eps * w.abs() + 1e-5 * w.abs().max()
        assert ((g.double() - w).abs() <= bound).all()
    assert fused(p, row_loss).dtype == torch.float32


def test_peer_bf16_accumulation_of_the_weight_gradient(make_problem):
    """Summing chunk gradients in bf16 (axolotl) misses the bound that the op keeps, by a wide margin."""
    p = make_problem(n=256, v=101, d=8, k=5, dtype=torch.bfloat16, spread=1.0)
    exact = p.double()
    (want,) = torch.autograd.grad(truth(exact, row_loss), exact.weight_VD)
    peer = torch.zeros_like(p.weight_VD)
    for i in range(256):
        rows = slice(i, i + 1)
        loss = ops.sparse_distill_loss(
            p.hidden_ND[rows], p.weight_VD, p.ids_NK[rows], row_loss, bias=p.bias_V, labels_N=p.labels_N[rows]
        )
        peer += torch.autograd.grad(loss, p.weight_VD)[0]
    (ours,) = torch.autograd.grad(fused(p, row_loss, chunk_rows=1), p.weight_VD)

    def error(g):
        return ((g.double() - want).norm() / want.norm()).item()

    assert error(ours) < 3e-3
    assert error(peer) > 3 * error(ours)


def test_autocast_changes_nothing(make_problem):
    p = make_problem(dtype=torch.float32)
    want = torch.autograd.grad(fused(p, row_loss), p.inputs)
    with torch.autocast("cpu", torch.bfloat16):
        got = torch.autograd.grad(fused(p, row_loss), p.inputs)
    for g, w in zip(got, want, strict=True):
        assert torch.equal(g, w)


def test_hidden_states_of_a_network_get_their_gradient(make_problem):
    """hidden is not a leaf, the weight is tied to an embedding: gradients add up as in plain autograd."""
    p = make_problem()
    table = p.weight_VD.detach().clone().requires_grad_()
    ids = torch.arange(11) % 37

    def loss(head):
        hidden = torch.tanh(table[ids])
        if head == "fused":
            return ops.sparse_distill_loss(hidden, table, p.ids_NK, row_loss, chunk_rows=3)
        return row_loss(ops.linear_support_logits(hidden, table, p.ids_NK), slice(0, 11)).sum()

    (got,), (want,) = (torch.autograd.grad(loss(h), table) for h in ("fused", "op"))
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-10)


def test_upstream_one_hands_out_the_stored_gradient_itself(make_problem):
    p = make_problem()
    loss = fused(p, row_loss)
    stored = loss.grad_fn.gradients[1].data_ptr()
    (g,) = torch.autograd.grad(loss, p.weight_VD)
    assert g.data_ptr() == stored
    loss = fused(p, row_loss)
    stored = loss.grad_fn.gradients[1].data_ptr()
    (h,) = torch.autograd.grad(loss * 3, p.weight_VD)
    assert h.data_ptr() == stored
    torch.testing.assert_close(h, 3 * g)


def test_nothing_outlives_the_backward(make_problem):
    p = make_problem()
    loss = fused(p, row_loss)
    loss.backward()
    assert loss.grad_fn.gradients is None
    gc.collect()


def test_second_backward_and_second_derivative_raise(make_problem):
    p = make_problem()
    loss = fused(p, row_loss)
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match=r"differentiated once.*linear_support_logits"):
        loss.backward()
    (g,) = torch.autograd.grad(fused(p, row_loss), p.hidden_ND, create_graph=True)
    assert g.requires_grad
    for x in p.inputs:
        # The part that has a second derivative must not hide the one that lacks it.
        mixed = (g**2).sum() + (x**3).sum()
        with pytest.raises(RuntimeError, match=r"differentiated once.*linear_support_logits"):
            torch.autograd.grad(mixed, x, retain_graph=True)


def test_create_graph_of_another_term_is_left_alone(make_problem):
    """A gradient penalty elsewhere may ask for a graph: the first derivative stays right."""
    p = make_problem()
    want = torch.autograd.grad(fused(p, row_loss), p.hidden_ND)[0]
    penalty = (p.hidden_ND**3).sum()
    (g,) = torch.autograd.grad(fused(p, row_loss) + penalty, p.hidden_ND, create_graph=True)
    torch.testing.assert_close(g.detach(), want + 3 * p.hidden_ND.detach() ** 2)


def captured_leaf(p):
    leaf = torch.ones((), dtype=torch.float64, requires_grad=True)
    return lambda s, rows: row_loss(s, rows) * leaf


def captured_result(p):
    leaf = torch.ones(11, dtype=torch.float64, requires_grad=True)
    made = leaf * 2
    return lambda s, rows: row_loss(s, rows) * made[rows]


def captured_hidden(p):
    return lambda s, rows: row_loss(s, rows) + p.hidden_ND[rows].sum(1)


def captured_module(p):
    module = torch.nn.Linear(1, 1).double()
    return lambda s, rows: module(row_loss(s, rows)[:, None]).squeeze(1)


@pytest.mark.parametrize("make_loss", [captured_leaf, captured_result, captured_hidden, captured_module])
@pytest.mark.parametrize("frozen", [False, True])
def test_undeclared_tensors_are_refused(make_problem, make_loss, frozen):
    p = make_problem()
    loss_fn = make_loss(p)
    if frozen and make_loss is not captured_hidden:
        for x in p.inputs:
            x.requires_grad_(False)
    with pytest.raises(ValueError, match=r"requires grad but is not in `params`"):
        fused(p, loss_fn)
    with torch.no_grad():
        assert fused(p, loss_fn).isfinite()


def test_declared_tensor_used_through_an_outside_product_is_refused(make_problem):
    """Its gradient would need the outside graph once per chunk."""
    p = make_problem()
    leaf = torch.ones((), dtype=torch.float64, requires_grad=True)
    made = leaf * 2
    with pytest.raises(ValueError, match="computed before the call"):
        fused(p, lambda s, rows: row_loss(s, rows) * made, params=(leaf,))
    loss = fused(p, lambda s, rows: row_loss(s, rows) * made, params=(made,), chunk_rows=2)
    (g,) = torch.autograd.grad(loss, leaf)
    torch.testing.assert_close(g, 2 * truth(p, row_loss).detach())


def test_parameters_of_a_module_are_declared(make_problem):
    p = make_problem()
    module = torch.nn.Linear(1, 1).double()

    def loss_fn(s, rows):
        return module(row_loss(s, rows)[:, None]).squeeze(1).square()

    got = torch.autograd.grad(fused(p, loss_fn, params=tuple(module.parameters()), chunk_rows=3), module.parameters())
    want = torch.autograd.grad(truth(p, loss_fn), module.parameters())
    for g, w in zip(got, want, strict=True):
        torch.testing.assert_close(g, w, rtol=1e-10, atol=1e-8)


def test_unused_and_detached_losses(make_problem):
    """A loss that does not depend on the student has zero gradient; an unused parameter gets 0."""
    p = make_problem()
    unused = torch.ones(2, requires_grad=True)
    loss = fused(p, lambda s, rows: s.log_probs(floor=-1.0).sum(1).detach(), params=(unused,))
    grads = torch.autograd.grad(loss, (*p.inputs, unused))
    assert all((g == 0).all() for g in grads)


@pytest.mark.parametrize(
    ("loss_fn", "error", "words"),
    [
        (lambda s, rows: row_loss(s, rows).sum(), ValueError, r"one loss per row, shape \[11\].*got \[\]"),
        (lambda s, rows: s.log_probs(floor=0.0), ValueError, r"got \[11, 6\]"),
        (lambda s, rows: row_loss(s, rows)[:, None], ValueError, r"got \[11, 1\]"),
        (lambda s, rows: 1.0, TypeError, "must return a tensor.*float"),
        (lambda s, rows: s.ids_NK[:, 0], TypeError, "floating-point"),
        ("kl", TypeError, "loss_fn must be callable"),
    ],
    ids=["scalar", "matrix", "column", "number", "integers", "string"],
)
def test_wrong_losses_are_named(make_problem, loss_fn, error, words):
    with pytest.raises(error, match=words):
        fused(make_problem(), loss_fn)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"chunk_rows": 0}, ValueError, "chunk_rows must be at least 1"),
        ({"params": (1.0,)}, TypeError, "entry 0 is a float"),
        ({"temperatures": (-1.0,)}, ValueError, "positive"),
        ({"extras": ("all",)}, ValueError, "'all'"),
    ],
)
def test_wrong_options_are_named(make_problem, options, error, words):
    with pytest.raises(error, match=words):
        fused(make_problem(), row_loss, **options)


def test_wrong_ids_are_named_before_any_work(make_problem):
    p = make_problem()
    p.ids_NK[6, 0] = 37
    with pytest.raises(ValueError, match=r"ids_NK must lie in 0 \.\. 36"):
        fused(p, lambda s, rows: pytest.fail("was called"))


def test_chunks_cover_the_rows_in_balanced_order(make_problem):
    p = make_problem()
    seen = []
    fused(p, lambda s, rows: seen.append((rows, s.ids_NK, s.labels_N)) or row_loss(s, rows), chunk_rows=4)
    assert [(r.start, r.stop) for r, _, _ in seen] == [(0, 3), (3, 7), (7, 11)]
    assert torch.equal(torch.cat([i for _, i, _ in seen]), p.ids_NK)
    assert torch.equal(torch.cat([x for _, _, x in seen]), p.labels_N)


def test_peer_accumulation_and_batch_agree(make_problem):
    """1 x 11 equals 11 x 1 with the denominator known first (TRL's accumulation defect)."""
    p = make_problem()
    fused(p, row_loss).div(11).backward()
    want = [x.grad.clone() for x in p.inputs]
    for x in p.inputs:
        x.grad = None
    for i in range(11):
        rows = slice(i, i + 1)
        loss = ops.sparse_distill_loss(
            p.hidden_ND[rows], p.weight_VD, p.ids_NK[rows], row_loss, bias=p.bias_V, labels_N=p.labels_N[rows]
        )
        (loss / 11).backward()
    for x, w in zip(p.inputs, want, strict=True):
        torch.testing.assert_close(x.grad, w, rtol=1e-11, atol=1e-11)
