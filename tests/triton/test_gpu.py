"""The Triton kernels on CUDA tensors against fp64: `pytest -m gpu` where there is a GPU."""

from __future__ import annotations

import pytest
import torch

from distill_core import ops

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")]
dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])


def error(found, truth):
    return ((found.double() - truth.double()).abs() / (1 + truth.double().abs())).max()


@dtypes
@pytest.mark.parametrize("v", [4096, 32_003, 128_256])
def test_support_logits(dtype, v):
    torch.manual_seed(0)
    z = (torch.randn(37, v, device="cuda") * 4).to(dtype)
    ids = torch.rand(37, v, device="cuda").argsort(1)[:, :64]
    found = {}
    for name, x, impl in (("truth", z.double(), "reference"), ("torch", z, "reference"), ("triton", z, "triton")):
        x = x.detach().requires_grad_()
        s = ops.support_logits(x, ids, temperatures=(1.0, 2.0), impl=impl)
        (g,) = torch.autograd.grad(s.tail_NT.sum() + (s.support_NK**2).sum(), x)
        found[name] = (s.support_NK, s.tail_NT, g)
    for a, b, c in zip(found["triton"], found["torch"], found["truth"], strict=True):
        assert error(a, c) <= 2 * error(b, c) + 1e-6


@dtypes
@pytest.mark.parametrize("n, v, d", [(300, 32_003, 512), (65, 1000, 72)])
def test_linear_support_logits(dtype, n, v, d):
    torch.manual_seed(0)
    h, w = torch.randn(n, d, device="cuda").to(dtype), (torch.randn(v, d, device="cuda") / d**0.5 * 3).to(dtype)
    ids = torch.rand(n, v, device="cuda").argsort(1)[:, :32]
    found = {}
    for name, to, impl in (
        ("truth", torch.float64, "reference"),
        ("torch", dtype, "reference"),
        ("triton", dtype, "triton"),
    ):
        x, y = h.to(to).requires_grad_(), w.to(to).requires_grad_()
        s = ops.linear_support_logits(x, y, ids, softcap=20.0, impl=impl)
        found[name] = (s.support_NK, s.tail_NT, *torch.autograd.grad(s.tail_NT.sum() + s.support_NK.sum(), (x, y)))
    for a, b, c in zip(found["triton"], found["torch"], found["truth"], strict=True):
        assert error(a, c) <= 2 * error(b, c) + 1e-5


@dtypes
@pytest.mark.parametrize("k", [1, 64, 128, 256])
def test_topk_logits(dtype, k):
    torch.manual_seed(0)
    z = (torch.randn(37, 50_257, device="cuda") * 4).to(dtype)
    found, want = ops.topk_logits(z, k, impl="triton"), ops.topk_logits(z.double(), k, impl="reference")
    assert torch.equal(found.ids_NK, want.ids_NK) and torch.equal(found.logits_NK.double(), want.logits_NK)
    torch.testing.assert_close(found.tail_NT.double(), want.tail_NT, rtol=2e-6, atol=2e-6)


@dtypes
@pytest.mark.parametrize("method", ["threshold", "multinomial"])
@pytest.mark.parametrize("k", [1, 12, 64, 256])
def test_sample_support(dtype, method, k):
    """Ids equal the reference's but for points within rounding of the end of an entry: 1 in 10,000 allowed."""
    torch.manual_seed(0)
    z = (torch.randn(64, 50_257, device="cuda") * 4).to(dtype)
    found = ops.sample_support(z, k, method=method, seed=3, impl="triton")
    want = ops.sample_support(z, k, method=method, seed=3, impl="reference")
    assert (found[0] != want[0]).float().mean() <= 1e-4
    same = found[0] == want[0]
    torch.testing.assert_close(found[1][same], want[1][same], rtol=2e-7, atol=0)
    alone = ops.sample_support(
        z[40:41], k, method=method, seed=3, row_keys_N=torch.tensor([40], device="cuda"), impl="triton"
    )
    assert torch.equal(alone[0][0], found[0][40]) and torch.equal(alone[1][0], found[1][40])


@dtypes
@pytest.mark.parametrize("mode, direction", [("tail", "forward"), ("tail", "reverse"), ("renormalized", "forward")])
def test_sparse_kl(dtype, mode, direction):
    torch.manual_seed(0)
    z = (torch.randn(37, 50_257, device="cuda") * 4).to(dtype)
    ids = torch.rand(37, 50_257, device="cuda").argsort(1)[:, :64]
    logp = torch.log_softmax(torch.randn(37, 65, device="cuda"), 1)[:, :64]
    found = {}
    for name, x, impl in (("truth", z.double(), "reference"), ("torch", z, "reference"), ("triton", z, "triton")):
        x = x.detach().requires_grad_()
        loss = ops.sparse_kl(x, ids, logp, mode=mode, direction=direction, impl=impl)
        found[name] = (loss, *torch.autograd.grad(loss, x))
    for a, b, c in zip(found["triton"], found["torch"], found["truth"], strict=True):
        assert error(a, c) <= 2 * error(b, c) + 1e-6
