"""The CUDA top-k kernel on the host: order, ties, tails and the hostile rows, in three thread orders.

Legend: N rows, V vocabulary, K entries kept, T temperatures.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from distill_core import ops

from .conftest import DTYPE_CODES, Shim

pytestmark = pytest.mark.native
inf = math.inf


def topk(
    shim: Shim, z_NV: Tensor, k: int, temperatures: tuple[float, ...] = (1.0,), valid: int | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """The launcher on outputs of exactly its size, poisoned."""
    n, limit = z_NV.shape[0], z_NV.shape[1] if valid is None else valid
    ids, top = torch.full((n, k), -7), torch.full((n, k), math.nan)
    tails = torch.full((n, len(temperatures)), math.nan)
    t = torch.tensor(temperatures, dtype=torch.float64)
    options = (DTYPE_CODES[z_NV.dtype], n, z_NV.stride(0), limit, k)
    shim.call("distill_topk_rows", z_NV, *options, t, len(temperatures), ids, top, tails)
    return ids, top, tails


def rows(kind: str, n: int, v: int, dtype: torch.dtype) -> Tensor:
    g = torch.Generator().manual_seed(v)
    z = torch.randn(n, v, generator=g) * 4
    if kind == "ties":
        z = z.round()
    elif kind == "ascending":
        z = z.sort(1).values
    elif kind == "constant":
        z = torch.full((n, v), 2.5)
    elif kind == "peaked":
        z[:, v // 2] += 30
    return z.to(dtype)


# Every buffer regime: nothing kept, one step of 1024, ragged ends around it, many cuts, the largest k.
@pytest.mark.parametrize(("v", "k"), [(1, 1), (7, 0), (63, 63), (1023, 5), (1025, 64), (5003, 64), (6000, 1024)])
@pytest.mark.parametrize("kind", ["signed", "ties", "ascending", "constant", "peaked"])
def test_equals_the_reference(shim: Shim, kind: str, v: int, k: int) -> None:
    for dtype in DTYPE_CODES:
        z = rows(kind, 2, v, dtype)
        ids, top, tails = topk(shim, z, k, (1.0, 2.5))
        want = ops.topk_logits(z.double(), k, temperatures=(1.0, 2.5), impl="reference")
        assert torch.equal(ids, want.ids_NK)
        assert torch.equal(top.double(), want.logits_NK)
        torch_own = ops.topk_logits(z, k, temperatures=(1.0, 2.5), impl="reference").tail_NT.double()
        if k == v:
            assert (tails == -inf).all()
        else:
            error, allowed = (tails.double() - want.tail_NT).abs(), (torch_own - want.tail_NT).abs()
            # Half a unit in the last place of a tail below 32 is 1e-6: no fp32 result can promise less.
            assert (error <= 2 * allowed + 1e-6).all(), (kind, dtype, error.max(), allowed.max())


def test_orders_give_the_same_bits(shim_library) -> None:
    z = rows("signed", 3, 5003, torch.bfloat16)
    first = topk(Shim(shim_library, "forward"), z, 64, (1.0, 0.7, 3.0))
    for order in ("reverse", "random"):
        for one, other in zip(first, topk(Shim(shim_library, order), z, 64, (1.0, 0.7, 3.0)), strict=True):
            assert torch.equal(one, other)


def test_strides_offsets_and_the_valid_vocabulary(shim: Shim) -> None:
    """Rows that start at every distance from an aligned address; what lies outside is NaN."""
    for dtype in DTYPE_CODES:
        for offset in range(5):
            wide = torch.full((3, 1300), math.nan, dtype=dtype)
            z = wide[:, offset : offset + 1100]
            z[:, :1051] = rows("signed", 3, 1051, dtype)
            ids, _, tails = topk(shim, z, 9, valid=1051)
            want = ops.topk_logits(z[:, :1051].double(), 9, impl="reference")
            assert torch.equal(ids, want.ids_NK)
            torch.testing.assert_close(tails.double(), want.tail_NT, rtol=1e-6, atol=1e-6)


def test_many_temperatures(shim: Shim) -> None:
    """Four temperatures share a read; more take another."""
    z, ts = rows("signed", 2, 2000, torch.float32), (0.5, 1.0, 1.5, 2.0, 4.0, 8.0)
    want = ops.topk_logits(z.double(), 12, temperatures=ts, impl="reference")
    torch.testing.assert_close(topk(shim, z, 12, ts)[2].double(), want.tail_NT, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("mass", [1e-2, 1e-4, 1e-6, 1e-8])
def test_tiny_tails(shim: Shim, mass: float) -> None:
    """The tail is a sum over the complement: its relative error does not grow as it shrinks."""
    z = torch.randn(2, 3000, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    z[:, 17] = z.scatter(1, torch.full((2, 1), 17), -inf).logsumexp(1) + math.log((1 - mass) / mass)
    z = z.float()
    want = ops.topk_logits(z.double(), 1, impl="reference")
    torch.testing.assert_close(topk(shim, z, 1)[2].double(), want.tail_NT, rtol=0, atol=1e-6)


def test_hostile_rows(shim: Shim) -> None:
    z = torch.zeros(6, 1500)
    z[0] = -inf
    z[1, 3:] = -inf
    z[2, 5], z[2, 7] = 1e4, -1e4
    z[3, [4, 8, 12]] = inf
    z[4, ::2] = -0.0
    z[5, 9] = 3.0
    ids, top, tails = topk(shim, z, 2)
    want = ops.topk_logits(z.double(), 2, impl="reference")
    assert torch.equal(ids, want.ids_NK) and torch.equal(top.double(), want.logits_NK)
    torch.testing.assert_close(tails.double(), want.tail_NT, rtol=1e-6, atol=1e-6)


def test_nan_in_nan_out(shim: Shim) -> None:
    """NaN ranks first, as in torch.topk, with either sign bit; a NaN beyond the top makes the tail NaN."""
    z = rows("signed", 2, 1500, torch.float32)
    z[0, [1100, 1200, 1300]] = math.nan
    z[1, [3, 4, 5]] = -torch.tensor(math.nan)
    for k in (0, 2):
        ids, top, tails = topk(shim, z, k)
        assert top.isnan().all() and tails.isnan().all()
        assert ids.tolist() == [[1100, 1200][:k], [3, 4][:k]]
    assert topk(shim, z, 3)[2].isfinite().all()


def test_no_rows(shim: Shim) -> None:
    assert topk(shim, torch.zeros(0, 9), 3)[0].shape == (0, 3)
