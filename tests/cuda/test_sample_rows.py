"""The CUDA sampling kernel on the host: the ids and weights of the reference, whose uniforms it shares bit for bit."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from distill_core import ops

from .conftest import DTYPE_CODES, Shim

pytestmark = pytest.mark.native
inf = math.inf
METHODS = ("threshold", "multinomial")


def sample(
    shim: Shim, z: Tensor, k: int, method: str, *, t: float = 1.0, seed: int = 0, keys=None, valid=None
) -> tuple[Tensor, Tensor]:
    n = z.shape[0]
    ids, weights = torch.full((n, k), -7), torch.full((n, k), math.nan)
    keys = torch.arange(n) if keys is None else keys
    options = (DTYPE_CODES[z.dtype], n, z.stride(0), z.shape[1] if valid is None else valid, k, METHODS.index(method))
    shim.call("distill_sample_rows", z, *options, t, seed, keys, ids, weights)
    return ids, weights


def rows(kind: str, v: int, dtype: torch.dtype) -> Tensor:
    g = torch.Generator().manual_seed(v)
    z = torch.randn(3, v, generator=g) * 3
    if kind == "ties":
        z = z.round()
    elif kind == "flat":
        z = z * 0.01
    elif kind == "peaked":
        z[:, v // 2] += 60
    return z.to(dtype)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("v", "k"), [(1, 1), (5, 9), (63, 12), (1030, 1), (5003, 64), (3000, 1024)])
@pytest.mark.parametrize("kind", ["signed", "ties", "flat", "peaked"])
def test_equals_the_reference(shim: Shim, kind: str, v: int, k: int, method: str) -> None:
    """Equal ids: a point that lies within 1e-13 of a boundary could differ, on these fixed rows none does."""
    for dtype in DTYPE_CODES:
        z, keys = rows(kind, v, dtype), torch.tensor([5, -3, 2**62])
        ids, weights = sample(shim, z, k, method, t=1.5, seed=-11, keys=keys)
        want = ops.sample_support(z.double(), k, method=method, temperature=1.5, seed=-11, row_keys_N=keys)
        assert torch.equal(ids, want[0]), (dtype, ids, want[0])
        torch.testing.assert_close(weights.double(), want[1], rtol=1e-6, atol=1e-30)


@pytest.mark.parametrize("method", METHODS)
def test_orders_and_company_change_nothing(shim_library, method: str) -> None:
    z = rows("signed", 2500, torch.float32)
    first = sample(Shim(shim_library, "forward"), z, 40, method)
    for order in ("reverse", "random"):
        assert all(map(torch.equal, first, sample(Shim(shim_library, order), z, 40, method)))
    alone = sample(Shim(shim_library, "forward"), z[1:2], 40, method, keys=torch.tensor([1]))
    assert torch.equal(alone[0][0], first[0][1]) and torch.equal(alone[1][0], first[1][1])


@pytest.mark.parametrize("method", METHODS)
def test_strides_and_the_valid_vocabulary(shim: Shim, method: str) -> None:
    for dtype in DTYPE_CODES:
        for offset in range(4):
            wide = torch.full((3, 1300), math.nan, dtype=dtype)
            z = wide[:, offset : offset + 1100]
            z[:, :1051] = rows("signed", 1051, dtype)
            ids, weights = sample(shim, z, 9, method, valid=1051)
            want = ops.sample_support(z[:, :1051].double(), 9, method=method)
            assert torch.equal(ids, want[0])
            torch.testing.assert_close(weights.double(), want[1], rtol=1e-6, atol=1e-30)


@pytest.mark.parametrize("method", METHODS)
def test_hostile_rows(shim: Shim, method: str) -> None:
    """Impossible entries are never drawn, however the sums round; a row of them alone is padding."""
    z = torch.full((4, 1500), -inf)
    z[1, [3, 700]] = torch.tensor([0.0, 1.0])
    z[2, ::3] = 0.0
    z[3, 5], z[3, 9] = 1e4, -1e4
    ids, weights = sample(shim, z, 8, method)
    want = ops.sample_support(z.double(), 8, method=method)
    assert torch.equal(ids, want[0])
    torch.testing.assert_close(weights.double(), want[1], rtol=1e-6, atol=1e-30)
    assert (ids[0] == -1).all() and (weights[0] == 0).all()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("bad", [math.nan, inf])
def test_nan_in_nan_out(shim: Shim, method: str, bad: float) -> None:
    z = rows("signed", 1500, torch.float32)
    z[1, 1200] = bad
    ids, weights = sample(shim, z, 6, method)
    assert weights[1].isnan().any() and ((ids >= -1) & (ids < 1500)).all()
    assert weights[[0, 2]].isfinite().all()


def test_weights_sum_to_one(shim: Shim) -> None:
    for kind in ("signed", "flat", "peaked"):
        ids, weights = sample(shim, rows(kind, 2000, torch.float32), 33, "threshold")
        torch.testing.assert_close(weights.double().sum(1), torch.ones(3, dtype=torch.float64), rtol=0, atol=1e-6)
        assert all(len(set(row)) == 33 for row in ids.tolist())


@pytest.mark.parametrize("method", METHODS)
def test_nothing_asked_for(shim: Shim, method: str) -> None:
    assert sample(shim, rows("signed", 20, torch.float32), 0, method)[0].shape == (3, 0)
    assert sample(shim, torch.zeros(0, 9), 3, method)[0].shape == (0, 3)
