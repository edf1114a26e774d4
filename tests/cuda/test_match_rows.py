"""The CUDA gradient-matching kernels on the host: sums of every row of a list of tensors, and their combination."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from distill_core.ops.gradient_match.cuda import table_of

from .conftest import DTYPE_CODES, Shim

pytestmark = pytest.mark.native
# Columns below a vector, ragged, long enough for several blocks of partial sums; one row, many, more than a block has.
SHAPES = [(1, 1), (3, 5), (9, 64), (2, 8195), (17, 130), (1, 4096)]


def tensors(dtype: torch.dtype, seed: int, offset: int) -> list[Tensor]:
    """One matrix per shape, each starting `offset` entries behind an aligned address."""
    g = torch.Generator().manual_seed(seed)
    found = []
    for rows, cols in SHAPES:
        room = torch.full((rows * cols + offset,), math.nan, dtype=dtype)
        room[offset:] = torch.randn(rows * cols, generator=g).to(dtype)
        found.append(room[offset:].view(rows, cols))
    return found


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("dtype", DTYPE_CODES, ids=str)
def test_sums_of_rows(shim: Shim, dtype: torch.dtype, offset: int) -> None:
    a, b = tensors(dtype, 0, offset), tensors(dtype, 1, 0)
    table, rows = table_of(a, b, a)
    sums = torch.full((rows, 3), math.nan, dtype=torch.float64)
    shim.call("distill_match_rows", table, len(a), rows, 0, sums)
    x, y = ([t.double() for t in side] for side in (a, b))
    want = torch.cat(
        [torch.stack([(p * q).sum(1), (p * p).sum(1), (q * q).sum(1)], 1) for p, q in zip(x, y, strict=True)]
    )
    # Relative to |a| |b|: at most 64 roundings of fp32 in a row, then fp64.
    scale = (want[:, 1] * want[:, 2]).sqrt()
    assert ((sums - want).abs().amax(1) <= 1e-6 * torch.maximum(scale, want.amax(1))).all()
    shim.call("distill_match_rows", table, len(a), rows, 1, sums)
    d = [p - q for p, q in zip(x, y, strict=True)]
    torch.testing.assert_close(sums[:, 0], torch.cat([(r * r).sum(1) for r in d]), rtol=1e-6, atol=0)
    torch.testing.assert_close(sums[:, 1], torch.cat([r.abs().sum(1) for r in d]), rtol=1e-6, atol=0)


def test_equal_rows_differ_by_nothing(shim: Shim) -> None:
    """|a - b|^2 is summed as it is: aa - 2 ab + bb would leave rounding."""
    a = tensors(torch.float32, 0, 0)
    b = [x.clone() for x in a]  # the table holds addresses alone
    table, rows = table_of(a, b, a)
    sums = torch.full((rows, 3), math.nan, dtype=torch.float64)
    shim.call("distill_match_rows", table, len(a), rows, 1, sums)
    assert (sums == 0).all()


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("dtype", DTYPE_CODES, ids=str)
def test_combination_of_rows(shim: Shim, dtype: torch.dtype, offset: int) -> None:
    a, b, g = tensors(dtype, 0, 0), tensors(dtype, 1, 0), tensors(dtype, 2, offset)
    b[3][0, :4] = a[3][0, :4]  # where sign(a - b) is 0
    table, rows = table_of(a, b, g)
    by = torch.randn(rows, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    shim.call("distill_combine_rows", table, len(a), rows, by)
    start = 0
    for x, y, z in zip(a, b, g, strict=True):
        of = by[start : start + x.shape[0], :, None].float().double()
        want = of[:, 0] * x.double() + of[:, 1] * y.double() + of[:, 2] * (x.double() - y.double()).sign()
        spacing = {torch.float32: 4e-7, torch.bfloat16: 4.1e-3, torch.float16: 5e-4}[dtype]
        assert ((z.double() - want).abs() <= spacing * (1 + want.abs())).all()
        start += x.shape[0]


def test_nan_stays_in_its_row(shim: Shim) -> None:
    a, b = torch.ones(3, 40), torch.ones(3, 40)
    a[1, 33] = math.nan
    g = torch.zeros(3, 40)
    table, rows = table_of([a], [b], [g])
    sums = torch.zeros(3, 3, dtype=torch.float64)
    shim.call("distill_match_rows", table, 1, rows, 0, sums)
    assert sums.isnan().any(1).tolist() == [False, True, False]
    shim.call("distill_combine_rows", table, 1, rows, torch.ones(3, 3, dtype=torch.float64))
    assert g.isnan().nonzero().tolist() == [[1, 33]]
