"""The CUDA sign projection on the host: the very signs of the counter, split anywhere."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from distill_core.ops.sample_support.counter_random import _GOLDEN, _signed, mix

from .conftest import DTYPE_CODES, Shim

pytestmark = pytest.mark.native


def signs(first: int, features: int, dim: int, seed: int) -> Tensor:
    """[features, dim]: -1 where bit p % 64 of mix(mix(mix(seed + G) + f G) + (p // 64 + 1) G) is set."""
    f = torch.arange(features) + first
    state = mix(mix(torch.tensor([_signed(seed + _GOLDEN)])) + f * _GOLDEN)[:, None]
    words = mix(state + torch.arange(1, -(-dim // 64) + 1) * _GOLDEN)
    bits = (words[:, :, None] >> torch.arange(64)) & 1
    return (1 - 2 * bits.flatten(1)[:, :dim]).double()


def project(
    shim: Shim, x: Tensor, dim: int, seed: int, first: int = 0, total: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    n, features = x.shape
    size = min(32, -(-features // 2**15)) * n * dim  # exactly what distill_project_scratch says
    fresh, out = total is None, torch.full((n, dim), math.nan)
    total = torch.full((n, dim), math.nan, dtype=torch.float64) if total is None else total
    scratch = torch.full((size,), math.nan, dtype=torch.float64)
    head = (DTYPE_CODES[x.dtype], n, x.stride(0), features, dim, seed, first, int(fresh))
    shim.call("distill_project_signs", x, *head, scratch, total, out, dim**-0.5)
    return total, out


# One column and word, ragged words, ragged samples, slices of 2^15 features and what is left of one.
@pytest.mark.parametrize(
    ("n", "features", "dim"), [(1, 1, 1), (2, 300, 64), (9, 257, 65), (3, 1000, 130), (1, 2**15 + 7, 5), (2, 0, 4)]
)
def test_equals_the_dense_product(shim: Shim, n: int, features: int, dim: int) -> None:
    for dtype in DTYPE_CODES:
        x = torch.randn(n, features, generator=torch.Generator().manual_seed(1)).to(dtype)
        total, out = project(shim, x, dim, seed=-5, first=3)
        want = x.double() @ signs(3, features, dim, -5)
        norm = x.double().norm(dim=1, keepdim=True)
        assert ((total - want).abs() <= 1e-6 * norm).all()
        torch.testing.assert_close(out.double(), want * dim**-0.5, rtol=1e-6, atol=1e-6 * float(norm.max()))


def test_signs_bit_for_bit(shim: Shim) -> None:
    """One-hot samples read the sign matrix out; far features and a stride."""
    first = 2**62
    wide = torch.zeros(16, 40)
    wide[:, :16] = torch.eye(16)
    total, _ = project(shim, wide[:, :16], 200, seed=2**63 - 1, first=first)
    assert torch.equal(total, signs(first, 16, 200, 2**63 - 1))


def test_pieces_add_up(shim: Shim) -> None:
    x = torch.randn(3, 900, generator=torch.Generator().manual_seed(1))
    whole, _ = project(shim, x, 70, seed=1)
    total, _ = project(shim, x[:, :333], 70, seed=1)
    total, out = project(shim, x[:, 333:], 70, seed=1, first=333, total=total)
    torch.testing.assert_close(total, whole, rtol=1e-6, atol=1e-4)
    torch.testing.assert_close(out.double(), total / math.sqrt(70), rtol=1e-6, atol=1e-6)


def test_orders_give_the_same_bits(shim_library) -> None:
    x = torch.randn(5, 700, generator=torch.Generator().manual_seed(1))
    first = project(Shim(shim_library, "forward"), x, 70, seed=1)
    for order in ("reverse", "random"):
        assert all(map(torch.equal, first, project(Shim(shim_library, order), x, 70, seed=1)))


def test_more_slices_than_a_launch_takes(shim_library) -> None:
    """Above 2^20 features the scratch is used again; the total goes on."""
    x = torch.randn(1, 2**20 + 300, generator=torch.Generator().manual_seed(1))
    total, _ = project(Shim(shim_library, "forward"), x, 2, seed=1)
    want = x.double() @ signs(0, x.shape[1], 2, 1)
    torch.testing.assert_close(total, want, rtol=0, atol=1e-6 * float(x.norm()))
