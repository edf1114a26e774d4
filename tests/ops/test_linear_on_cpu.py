"""The fused head in C++: value and gradient beside the reference in the same dtype, both against fp64.

Legend: N rows, V vocabulary, D hidden, K support.
"""

from __future__ import annotations

import pytest
import torch

from distill_core import ops

pytestmark = pytest.mark.native
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
HEADS = {
    "plain": {},
    "two temperatures, scale": {"temperatures": (1.0, 2.5), "logit_scale": 0.7},
    "softcap, all extras": {"softcap": 9.0, "extras": ("mean", "entropy", "top1"), "temperatures": (1.0, 2.0)},
    "one temperature that is not 1": {"temperatures": (0.7,)},
}
SIZES = {
    "small": (11, 37, 6, 5),
    "many columns": (70, 2500, 40, 17),
    "wide": (11, 101, 70, 5),
    "one column": (3, 1, 4, 1),
    "whole vocabulary": (6, 9, 3, 9),
}
every_head = pytest.mark.parametrize("head", HEADS.values(), ids=HEADS.keys())
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def scalar(support, temperature):
    """A function of everything that has a gradient, with weights that differ by row and column."""
    logp = support.log_probs(temperature)
    ramp = torch.linspace(0.2, 1.0, logp.numel(), dtype=logp.dtype).view_as(logp)
    value = (torch.where(torch.isneginf(logp), 0.0, logp) * ramp).sum() + (support.label_N * 0.3).sum()
    if support.mean_N is not None:
        value = value + support.mean_N.sum() * 2 + (support.entropy_NT * 0.5).sum()
    return value


def value_and_gradients(problem, head, impl):
    inputs = [x.detach().requires_grad_() for x in problem.inputs]
    found = ops.linear_support_logits(
        inputs[0], inputs[1], problem.ids_NK, bias=inputs[2], labels_N=problem.labels_N, impl=impl, **head
    )
    value = scalar(found, found.temperatures[-1])
    grads = torch.autograd.grad(value, inputs)
    return [found.support_NK, found.tail_NT, *grads]


def fused(problem, head, impl, chunk_rows=None):
    inputs = [x.detach().requires_grad_() for x in problem.inputs]

    def loss(support, rows):
        logp = support.log_probs(support.temperatures[-1])
        kept = torch.where(torch.isneginf(logp), 0.0, logp).sum(1) + support.label_N * 0.3
        return kept if support.mean_N is None else kept + support.mean_N * 2 + support.entropy_NT.sum(1)

    value = ops.sparse_distill_loss(
        inputs[0], inputs[1], problem.ids_NK, loss, bias=inputs[2], labels_N=problem.labels_N, impl=impl,
        chunk_rows=chunk_rows, **head,
    )  # fmt: skip
    return [value, *torch.autograd.grad(value, inputs)]


def assert_twice_as_good(found, reference, truth):
    """err(kernel) <= 2 err(reference) + a few units in the last place of fp32."""
    for mine, theirs, exact in zip(found, reference, truth, strict=True):
        assert mine.dtype == theirs.dtype
        real = ~torch.isinf(exact)
        assert torch.equal(mine.double()[~real], exact[~real])
        exact = exact[real]
        scale = exact.abs().max().item() if exact.numel() else 0.0
        error = (mine.double()[real] - exact).abs().max().item() if exact.numel() else 0.0
        allowed = (theirs.double()[real] - exact).abs().max().item() if exact.numel() else 0.0
        assert error <= 2 * allowed + 2e-6 * scale + 1e-9, (error, allowed, scale)


@every_head
@every_dtype
@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES.keys())
def test_support_logits_and_gradients(make_problem, size, dtype, head):
    problem = make_problem(*size, dtype=dtype)
    truth = value_and_gradients(problem.double(), head, "reference")
    assert_twice_as_good(
        value_and_gradients(problem, head, "cpu"), value_and_gradients(problem, head, "reference"), truth
    )


@every_head
@every_dtype
def test_gradient_in_forward(make_problem, dtype, head):
    problem = make_problem(70, 2500, 40, 17, dtype=dtype)
    truth = fused(problem.double(), head, "reference")
    reference = fused(problem, head, "reference")
    for chunk_rows in (None, 7, 1000):
        assert_twice_as_good(fused(problem, head, "cpu", chunk_rows=chunk_rows), reference, truth)


@every_dtype
@pytest.mark.parametrize("mode", ["tail", "truncated", "renormalized", "renormalized-both", "weights"])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_linear_sparse_kl(make_problem, dtype, mode, reduction):
    problem = make_problem(33, 700, 12, 9, dtype=dtype)
    logp = torch.log_softmax(torch.randn(33, 10), 1)[:, :9]

    def run(p, impl):
        inputs = [x.detach().requires_grad_() for x in p.inputs]
        loss = ops.linear_sparse_kl(
            inputs[0], inputs[1], p.ids_NK, logp, bias=inputs[2], mode=mode, reduction=reduction, impl=impl
        )
        return [loss, *torch.autograd.grad(loss.sum(), inputs)]

    assert_twice_as_good(run(problem, "cpu"), run(problem, "reference"), run(problem.double(), "reference"))


def test_second_derivative_equals_the_reference(make_problem):
    problem = make_problem(11, 300, 6, 5, dtype=torch.float32)

    def second(p, impl):
        hidden, weight, bias = (x.detach().requires_grad_() for x in p.inputs)
        found = ops.linear_support_logits(hidden, weight, p.ids_NK, bias=bias, labels_N=p.labels_N, impl=impl)
        (first,) = torch.autograd.grad(scalar(found, 1.0), weight, create_graph=True)
        return list(torch.autograd.grad((first**2).sum(), (hidden, weight, bias)))

    exact = second(problem.double(), "reference")
    assert_twice_as_good(second(problem, "cpu"), second(problem, "reference"), exact)


@pytest.mark.parametrize("qbar", [1e-2, 1e-4, 1e-6, 1e-8])
def test_tails_down_to_tiny_masses(peaked_tail, qbar):
    z, ids = peaked_tail(qbar)
    weight = z.T.contiguous().requires_grad_()  # hidden states of the identity give back the logits
    logp = ops.linear_support_logits(torch.eye(z.shape[0]), weight, ids, impl="cpu").log_probs()
    assert (logp[:, -1].exp() / qbar - 1).abs().max() < 2e-5
    (gradient,) = torch.autograd.grad(logp[:, -1].sum(), weight)
    exact = z.double().requires_grad_()
    rest = torch.full_like(exact, 0.0).scatter(1, ids, -torch.inf)
    tail = (exact + rest).logsumexp(1) - exact.logsumexp(1)
    (truth,) = torch.autograd.grad(tail.sum(), exact)
    torch.testing.assert_close(gradient.T.double(), truth, rtol=2e-5, atol=1e-9)


@pytest.mark.parametrize("width", [8, 70])
@pytest.mark.parametrize("n, k", [(0, 3), (1, 3), (4, 0), (0, 0)])
@every_dtype
def test_few_rows_and_no_support(dtype, n, k, width):
    hidden = torch.ones(n, width, dtype=dtype, requires_grad=True)
    weight = torch.ones(7, width, dtype=dtype, requires_grad=True)
    ids = torch.arange(k).expand(n, k)
    loss = ops.linear_sparse_kl(hidden, weight, ids, torch.full((n, k), -2.0), impl="cpu")
    assert bool(loss.isfinite())
    for g, x in zip(torch.autograd.grad(loss, (hidden, weight)), (hidden, weight), strict=True):
        assert g.shape == x.shape and g.is_contiguous() and bool(g.isfinite().all())
        assert n or not g.any()


def test_fp64_stays_with_the_reference(make_problem):
    p = make_problem()
    with pytest.raises(RuntimeError, match=r'impl="cpu" cannot run: the cpu kernel takes .*float32.*got torch.float64'):
        ops.linear_support_logits(p.hidden_ND, p.weight_VD, p.ids_NK, impl="cpu")
    ops.linear_support_logits(p.hidden_ND, p.weight_VD, p.ids_NK)
    assert ops.chosen()["linear_support_logits"] == "reference"
