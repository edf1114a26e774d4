"""`torch.func` and forward mode: values under vmap, refusals where a derivative would be an error or a silent zero."""

from __future__ import annotations

import pytest
import torch
from torch.autograd import forward_ad

from distill_core import ops

N, V, D, K = 4, 20, 6, 3


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def problem():
    ids = torch.rand(N, V).argsort(1)[:, :K].contiguous()
    return torch.randn(N, V), torch.randn(N, D), torch.randn(V, D), ids, torch.randn(N, K + 1).log_softmax(1)[:, :K]


LOSSES = {
    "sparse_kl": lambda p, x, impl: ops.sparse_kl(x, p[3], p[4], impl=impl),
    "linear_sparse_kl": lambda p, x, impl: ops.linear_sparse_kl(x, p[2], p[3], p[4], impl=impl),
    "support_logits": lambda p, x, impl: ops.support_logits(x, p[3], impl=impl).tail_NT.sum(),
    "linear_support_logits": lambda p, x, impl: ops.linear_support_logits(x, p[2], p[3], impl=impl).tail_NT.sum(),
    "sparse_distill_loss": lambda p, x, impl: ops.sparse_distill_loss(
        x, p[2], p[3], lambda s, rows: s.logsumexp(), impl=impl
    ),
    "gradient_match": lambda p, x, impl: ops.gradient_match([x], [p[2][:N]], impl=impl),
}
every_loss = pytest.mark.parametrize("op", LOSSES)
impls = pytest.mark.parametrize("impl", ["auto", "reference"])


def made(op, impl):
    p = problem()
    return (lambda x: LOSSES[op](p, x, impl)), p[0 if op in ("sparse_kl", "support_logits") else 1]


def _dual(f, x):
    with forward_ad.dual_level():
        return f(forward_ad.make_dual(x, x))


FORWARD = {
    "jvp": lambda f, x: torch.func.jvp(f, (x,), (x,)),
    "jacfwd": lambda f, x: torch.func.jacfwd(f)(x),
    "forward_ad": _dual,
}
REVERSE = {
    "grad": lambda f, x: torch.func.grad(f)(x),
    "vjp": lambda f, x: torch.func.vjp(f, x),
    "jacrev": lambda f, x: torch.func.jacrev(f)(x),
    "hessian": lambda f, x: torch.func.hessian(f)(x),
    "grad of each": lambda f, x: torch.func.vmap(torch.func.grad(f))(torch.stack([x, x])),
}


@every_loss
@impls
@pytest.mark.parametrize("transform", FORWARD)
def test_forward_mode_is_refused(op, impl, transform):
    """torch would pass a registered op over: a tangent of zero."""
    with pytest.raises(RuntimeError, match=f"^{op}: got an input with a forward-mode tangent .*Use reverse mode"):
        FORWARD[transform](*made(op, impl))


@every_loss
@impls
@pytest.mark.parametrize("transform", REVERSE)
def test_derivatives_by_torch_func_are_refused(op, impl, transform):
    with pytest.raises(RuntimeError, match=f"^{op}: got an input that torch.func differentiates .*torch.autograd.grad"):
        REVERSE[transform](*made(op, impl))


@pytest.mark.parametrize("op", [op for op in LOSSES if op != "sparse_distill_loss"])
@impls
def test_values_under_vmap(op, impl):
    f, x = made(op, impl)
    found = torch.func.vmap(f)(torch.stack([x, 2 * x]))
    torch.testing.assert_close(found, torch.stack([f(x), f(2 * x)]), rtol=1e-6, atol=1e-6)


WITHOUT_DERIVATIVE = {
    "topk_logits": lambda p, x, y, impl: ops.topk_logits(x @ p[2].T, 3, impl=impl).tail_NT,
    "linear_topk_logits": lambda p, x, y, impl: ops.linear_topk_logits(x, p[2], 3, impl=impl).logits_NK,
    "sample_support": lambda p, x, y, impl: ops.sample_support(x @ p[2].T, 3, impl=impl)[1],
    "gradient_gram": lambda p, x, y, impl: ops.gradient_gram(*[x[:, None]] * 2, *[y[:, None]] * 2),
    "random_projection": lambda p, x, y, impl: ops.random_projection(x, 8, seed=1, impl=impl),
    "random_projection of a list": lambda p, x, y, impl: ops.random_projection([x, p[2][:N], y], 8, seed=1, impl=impl),
    "gradient_match of both": lambda p, x, y, impl: ops.gradient_match([x, p[2]], [y, p[2] + 1], impl=impl),
    "gradient_match by tensor": lambda p, x, y, impl: ops.gradient_match([x, y], [y, x], group="tensor", impl=impl),
}


@pytest.mark.parametrize("op", WITHOUT_DERIVATIVE)
@impls
@pytest.mark.parametrize("dims", [(0, 0), (0, None), (2, 1)], ids=str)
def test_values_of_teachers_and_gradients_under_vmap(op, impl, dims):
    p = problem()
    x, y = (torch.randn(3, N, D).movedim(0, dim or 0) if dim is not None else torch.randn(N, D) for dim in dims)

    def f(x, y):
        return WITHOUT_DERIVATIVE[op](p, x, y, impl)

    found = torch.func.vmap(f, in_dims=dims)(x, y)
    samples = [[z if dim is None else z.select(dim, i) for z, dim in zip((x, y), dims, strict=True)] for i in range(3)]
    torch.testing.assert_close(found, torch.stack([f(*sample) for sample in samples]), rtol=1e-6, atol=1e-6)


def test_vmap_without_samples_is_refused():
    with pytest.raises(ValueError, match=r"^random_projection: torch\.func\.vmap got a dimension of size 0"):
        torch.func.vmap(lambda x: ops.random_projection(x, 8, seed=1))(torch.zeros(0, N, D))


def test_vmap_of_vmap():
    p = problem()
    x = torch.randn(2, 3, N, D)
    found = torch.func.vmap(torch.func.vmap(lambda a: ops.gradient_match([a], [p[1]])))(x)
    want = torch.stack([torch.stack([ops.gradient_match([a], [p[1]]) for a in row]) for row in x])
    torch.testing.assert_close(found, want)


@every_loss
def test_what_is_not_differentiated_may_stand_inside_a_transform(op):
    """A loss beside the differentiated path is a number like any other."""
    f, x = made(op, "auto")
    value, beside = f(x), torch.func.grad(lambda y: (y * f(x)).sum())
    if op == "sparse_distill_loss":  # its autograd node is one that no transform lets in
        with pytest.raises(RuntimeError, match=f"^{op}: runs inside no transform of torch.func"):
            beside(torch.ones(3))
    else:
        torch.testing.assert_close(beside(torch.ones(3)), value.expand(3))
