"""The registered ops: opcheck, torch.compile(fullgraph=True) with static and dynamic shapes."""

from __future__ import annotations

import pytest
import torch

from distill_core import ops
from distill_core.ops import cpu_library, dispatch
from distill_core.ops.sample_support import _sample_support_op
from distill_core.ops.sparse_kl.native import sparse_kl_rows_op
from distill_core.ops.support_logits import linear_op, logits_op
from distill_core.ops.topk_logits.ops import linear_topk_logits_op, topk_logits_op

FLAGS = (True, True, True)


@pytest.fixture(autouse=True)
def _loaded():
    """The registered ops are called here without the public function that loads the library."""
    assert cpu_library.available()[0], cpu_library.available()[1]


def opcheck(op, args):
    assert set(torch.library.opcheck(op, args).values()) == {"SUCCESS"}


@pytest.mark.parametrize("impl", ["reference", "cpu"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_opcheck_linear_support_logits(make_problem, dtype, impl):
    p = make_problem(dtype=dtype)
    opcheck(linear_op.linear_support_logits_op, (*p.inputs, p.ids_NK, p.labels_N, [1.0, 2.0], 4.0, 1.2, *FLAGS, impl))
    opcheck(
        linear_op.linear_support_logits_op,
        (p.hidden_ND, p.weight_VD, None, p.ids_NK, None, [1.0], None, 1.0, False, False, False, impl),
    )


def cotangents(found):
    return [torch.randn_like(x).requires_grad_() for x in found[:5]]


@pytest.mark.parametrize("impl", ["reference", "cpu"])
def test_opcheck_linear_backward_and_double_backward(make_problem, impl):
    p = make_problem(n=5, v=9, dtype=torch.float64 if impl == "reference" else torch.float32)
    options = ([1.0, 2.0], 4.0, 1.2, *FLAGS, impl)
    found = linear_op.linear_support_logits_op(*p.inputs, p.ids_NK, p.labels_N, *options)
    head = (*p.inputs, p.ids_NK, p.labels_N)
    given = cotangents(found)
    opcheck(linear_op.linear_support_logits_backward_op, (*head, found[1].detach(), *given, *options, True, True, True))
    with torch.no_grad():
        again = tuple(torch.randn_like(x) for x in p.inputs)
        opcheck(
            linear_op.linear_support_logits_double_backward_op,
            tuple(x.detach() if isinstance(x, torch.Tensor) else x for x in (*head, *given, *options, *again)),
        )


def test_opcheck_sparse_kl_rows(make_problem):
    assert dispatch.status()["sparse_kl"]["cpu"]["available"]
    p = make_problem(n=5, v=9)
    z = p.dense().detach().float()
    logp = torch.full(p.ids_NK.shape, -3.0)
    opcheck(sparse_kl_rows_op, (z, p.ids_NK, logp, None, "tail", False, 1.5, 0.2, z[:, 0].clone(), True, "cpu"))
    opcheck(
        sparse_kl_rows_op, (z.bfloat16(), p.ids_NK, logp, logp[:, 0], "weights", False, 1.0, 1.0, None, False, "cpu")
    )


@pytest.mark.parametrize(("impl", "dtype"), [("reference", torch.float64), ("cpu", torch.float32)])
def test_opcheck_support_logits_all_orders(make_problem, impl, dtype):
    assert dispatch.status()["support_logits"][impl]["available"]
    p = make_problem(n=5, v=9)
    z = p.dense().detach().to(dtype).requires_grad_()
    options = ([1.0, 2.0], *FLAGS, impl)
    opcheck(logits_op.support_logits_op, (z, p.ids_NK, p.labels_N, *options))
    found = logits_op.support_logits_op(z, p.ids_NK, p.labels_N, *options)
    given = cotangents(found)
    opcheck(logits_op.support_logits_backward_op, (z, p.ids_NK, p.labels_N, found[1].detach(), *given, *options))
    flat = tuple(x.detach() for x in given)
    opcheck(
        logits_op.support_logits_double_backward_op,
        (z.detach(), p.ids_NK, p.labels_N, *flat, *options, torch.randn_like(z)),
    )


@pytest.mark.parametrize("impl", ["reference", "cpu"])
def test_opcheck_teacher_side(make_problem, impl):
    p = make_problem(dtype=torch.float32)
    hidden, weight, bias = (x.detach() for x in p.inputs)
    opcheck(topk_logits_op, (hidden @ weight.T, 4, [1.0, 2.0], 30, impl))
    opcheck(linear_topk_logits_op, (hidden, weight, bias, 4, [1.0, 2.0], 3.0, 1.1, 30, impl))
    opcheck(_sample_support_op, (hidden @ weight.T, 4, "threshold", 1.0, 3, torch.arange(11), 30, impl))


def primitive(p, logp):
    s = ops.linear_support_logits(
        p.hidden_ND, p.weight_VD, p.ids_NK, labels_N=p.labels_N, temperatures=(1.0, 2.0), softcap=30.0, extras=("mean",)
    )
    return (s.log_probs(2.0, floor=-69.0) ** 2).sum() + s.cross_entropy().sum() - s[1:3].mean_N.sum()


def losses(p, logp):
    z = p.hidden_ND @ p.weight_VD.T
    loss = ops.sparse_kl(z, p.ids_NK, logp, mode="renormalized-both", direction="reverse")
    loss = loss + ops.linear_sparse_kl(p.hidden_ND, p.weight_VD, p.ids_NK, logp, bias=p.bias_V)
    return loss + ops.support_logits(z, p.ids_NK, extras=("entropy",)).entropy_NT.sum()


def teacher(p, logp):
    z = p.hidden_ND @ p.weight_VD.T
    top = ops.topk_logits(z, 4, temperatures=(1.0, 2.0))
    ids, w = ops.sample_support(z, 4, method="multinomial", seed=3)
    linear = ops.linear_topk_logits(p.hidden_ND, p.weight_VD, 2)
    return (*top.log_probs(2.0), ids, w, linear.ids_NK)


@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
@pytest.mark.parametrize("function", [primitive, losses, teacher])
def test_compiles_to_one_graph(make_problem, function, dynamic):
    torch._dynamo.reset()
    compiled = torch.compile(function, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    for n, v in ((7, 23), (9, 31)) if dynamic else ((7, 23),):
        p = make_problem(n=n, v=v)
        logp = torch.log_softmax(torch.randn(n, 5, dtype=torch.float64), 1) - 0.1
        want, got = function(p, logp), compiled(p, logp)
        torch.testing.assert_close(got, want)
        if function is not teacher:
            expected = torch.autograd.grad(want, p.inputs[:2])
            for g, w in zip(torch.autograd.grad(got, p.inputs[:2]), expected, strict=True):
                torch.testing.assert_close(g, w)


@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
def test_native_kernels_compile_to_one_graph(make_problem, dynamic):
    """fp32 logits and hidden states under impl="cpu": the same value and gradient as eager."""
    torch._dynamo.reset()

    def step(h, w, ids, labels, logp):
        z = h @ w.T
        s = ops.support_logits(z, ids, extras=("entropy",), impl="cpu")
        head = ops.linear_support_logits(h, w, ids, labels_N=labels, softcap=9.0, impl="cpu")
        loss = ops.sparse_kl(z, ids, logp, temperature=1.5, impl="cpu") + ops.linear_sparse_kl(
            h, w, ids, logp, impl="cpu"
        )
        return loss + s.entropy_NT.sum() + s.tail_NT.sum() + head.tail_NT.sum() + head.cross_entropy().sum()

    compiled = torch.compile(step, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    for n, v in ((7, 23), (9, 31)) if dynamic else ((7, 23),):
        p = make_problem(n=n, v=v, dtype=torch.float32)
        arguments = (*p.inputs[:2], p.ids_NK, p.labels_N, torch.full((n, 5), -2.0))
        want, got = step(*arguments), compiled(*arguments)
        torch.testing.assert_close(got, want)
        expected = torch.autograd.grad(want, p.inputs[:2])
        for g, w in zip(torch.autograd.grad(got, p.inputs[:2]), expected, strict=True):
            torch.testing.assert_close(g, w, rtol=1e-5, atol=1e-5)


def test_compiled_code_still_refuses_repeated_ids(make_problem):
    torch._dynamo.reset()
    p = make_problem()
    p.ids_NK[7] = 3
    step = torch.compile(
        lambda h, w, i: ops.linear_support_logits(h, w, i).tail_NT, fullgraph=True, backend="aot_eager"
    )
    with pytest.raises(ValueError, match="row 7 of ids_NK repeats"):
        step(p.hidden_ND, p.weight_VD, p.ids_NK)


def test_third_derivative_is_refused_not_zero(make_problem):
    p = make_problem(n=5, v=9)
    s = ops.linear_support_logits(p.hidden_ND, p.weight_VD, p.ids_NK)
    (g,) = torch.autograd.grad(s.logsumexp().sum(), p.hidden_ND, create_graph=True)
    (gg,) = torch.autograd.grad((g**2).sum(), p.hidden_ND, create_graph=True)
    with pytest.raises(RuntimeError, match="no autograd formula"):
        torch.autograd.grad((gg**2).sum(), p.hidden_ND)
