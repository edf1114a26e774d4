"""The public ops with impl="cuda", where a CUDA device is there."""

from __future__ import annotations

import pytest
import torch

from distill_core import ops
from distill_core.engine.unpack import unpack
from distill_core.ops import cuda_library
from distill_core.ops.gradient_match.cuda import combine_rows, match_rows
from distill_core.ops.random_projection.cuda import project
from distill_core.ops.unpack_rows.cuda import METHODS

from .test_unpack_rows import FIELDS, description, made


def _missing() -> str:
    can_run, reason = cuda_library.available()
    return "" if can_run else reason


pytestmark = [pytest.mark.gpu, pytest.mark.skipif(bool(_missing()), reason=_missing() or "runs")]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def logits(dtype: torch.dtype, v: int = 128_256) -> torch.Tensor:
    return (torch.randn(5, v + 3, generator=torch.Generator().manual_seed(0)) * 4).to(dtype)[:, 2:-1]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("k", [0, 1, 64, 1024])
def test_topk_logits(dtype: torch.dtype, k: int) -> None:
    z, ts = logits(dtype), (0.5, 1.0, 2.0, 3.0, 4.0)
    want = ops.topk_logits(z.double(), k, temperatures=ts, impl="reference")
    found = ops.topk_logits(z.cuda(), k, temperatures=ts, impl="cuda")
    assert torch.equal(found.ids_NK.cpu(), want.ids_NK)
    assert torch.equal(found.logits_NK.cpu().double(), want.logits_NK)
    torch.testing.assert_close(found.tail_NT.cpu().double(), want.tail_NT, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("method", ["threshold", "multinomial"])
def test_sample_support(dtype: torch.dtype, method: str) -> None:
    z = logits(dtype)
    want = ops.sample_support(z.double(), 32, method=method, seed=3, impl="reference")
    found = ops.sample_support(z.cuda(), 32, method=method, seed=3, impl="cuda")
    assert torch.equal(found[0].cpu(), want[0])
    torch.testing.assert_close(found[1].cpu().double(), want[1], rtol=1e-6, atol=1e-30)


def test_too_large_a_k_falls_back_and_says_so() -> None:
    z = logits(torch.float32).cuda()
    with pytest.raises(RuntimeError, match="at most 1024 entries per row; got k = 1025"):
        ops.topk_logits(z, 1025, impl="cuda")
    ops.topk_logits(z, 1025)
    assert ops.chosen()["topk_logits"] != "cuda"


def test_another_stream_and_device() -> None:
    """The launch goes to the stream and the device of the tensors, and leaves the current device alone."""
    before = torch.cuda.current_device()
    z = logits(torch.float32).to(f"cuda:{torch.cuda.device_count() - 1}")
    with torch.cuda.stream(torch.cuda.Stream(z.device)):
        found = ops.topk_logits(z * 1.0, 64, impl="cuda")
    torch.cuda.synchronize(z.device)
    assert torch.equal(found.ids_NK, ops.topk_logits(z, 64, impl="reference").ids_NK)
    assert torch.cuda.current_device() == before


def test_raw_kernels() -> None:
    g = torch.Generator().manual_seed(0)
    a, b = ([torch.randn(r, c, generator=g) for r, c in ((3, 5), (100, 4096))] for _ in range(2))
    on_gpu = [[x.cuda() for x in side] for side in (a, b)]
    sums = match_rows(*on_gpu).cpu()
    want = torch.cat([(x.double() * y.double()).sum(1) for x, y in zip(a, b, strict=True)])
    torch.testing.assert_close(sums[:, 0], want, rtol=1e-5, atol=1e-3)
    flat = torch.empty(sum(x.numel() for x in a), device="cuda")
    combine_rows(*on_gpu, torch.tensor([[2.0, -1.0, 0.0]]).expand(103, 3).cuda(), flat)
    want = torch.cat([(2 * x - y).flatten() for x, y in zip(a, b, strict=True)])
    torch.testing.assert_close(flat.cpu(), want)
    x = torch.randn(3, 70_000, generator=g)
    whole = project([x.cuda()], 100, 7, 0)
    halves = project([x[:, :123].cuda(), x[:, 123:].cuda()], 100, 7, 0)
    torch.testing.assert_close(whole, halves, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("group", ["row", "tensor", "global"])
@pytest.mark.parametrize("distance", ["cosine", "l2+l1"])
def test_gradient_match(distance: str, group: str) -> None:
    g = torch.Generator().manual_seed(0)
    real = [torch.randn(r, c, generator=g).cuda() for r, c in ((3, 5), (100, 4096))]
    leaves = [[torch.randn(x.shape, generator=g).cuda().requires_grad_() for x in real]]
    leaves.append([x.detach().clone().requires_grad_() for x in leaves[0]])
    values = [
        ops.gradient_match(side, real, distance=distance, group=group, impl=impl)  # type: ignore[arg-type]
        for side, impl in zip(leaves, ("cuda", "reference"), strict=True)
    ]
    torch.testing.assert_close(*values, rtol=1e-5, atol=1e-5)
    for value in values:
        value.backward()
    for x, y in zip(*leaves, strict=True):
        torch.testing.assert_close(x.grad, y.grad, rtol=1e-5, atol=1e-6)


def test_random_projection() -> None:
    x = torch.randn(3, 70_000, generator=torch.Generator().manual_seed(0))
    found = ops.random_projection(x.cuda(), 100, seed=7, impl="cuda")
    torch.testing.assert_close(found.cpu(), ops.random_projection(x, 100, seed=7), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_unpack_rows(method: str) -> None:
    """The ids of the host's codec; values up to the last bits, where exp and log round otherwise."""
    of = description(method, 48, 5000)
    parts = [made(of, n, n) for n in (300, 1, 0, 70)]
    want, found = unpack(parts, of, "cuda", impl="reference"), unpack(parts, of, "cuda", impl="cuda")
    assert torch.equal(found.ids_NK, want.ids_NK)
    for name in FIELDS[1:]:
        a, b = getattr(found, name), getattr(want, name)
        assert (a is None) == (b is None), name
        if a is not None:
            torch.testing.assert_close(a, b, rtol=2e-7, atol=1e-30)
