"""The raw CUDA kernels of gradient matching: one launch over all tensors of two lists.

Legend: L tensors, R rows of all tensors together.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .. import cuda_library

cuda_library.define(
    "match_rows(Tensor table, int rows, bool difference) -> Tensor",
    "combine_rows(Tensor table, Tensor by, Tensor(a!) into) -> ()",
)

_CODES = {dtype: code for code, dtype in enumerate(cuda_library.DTYPES)}


def table_of(a: Sequence[Tensor], b: Sequence[Tensor], g: Sequence[Tensor]) -> tuple[Tensor, int]:
    """[L, 8] int64 on the CPU, and R: addresses, rows before, rows, columns, dtype code, 0, as the kernels take them.

    `a`, `b`, `g` hold contiguous matrices of equal shape and dtype. The table holds addresses alone: keep the tensors.
    """
    entries, rows = [], 0
    for x, y, z in zip(a, b, g, strict=True):
        if x.shape[0] == 0:
            continue
        where = [x.data_ptr(), y.data_ptr(), z.data_ptr()]
        entries.append([*where, rows, x.shape[0], x.shape[1], _CODES[x.dtype], 0])
        rows += x.shape[0]
    return torch.tensor(entries, dtype=torch.int64).reshape(-1, 8), rows


def match_rows(a: Sequence[Tensor], b: Sequence[Tensor], *, difference: bool = False) -> Tensor:
    """[R, 3] fp64: <a, b>, <a, a>, <b, b> of each row; for `difference` the sums of (a - b)^2 and |a - b|, and 0."""
    table, rows = table_of(a, b, a)
    found: Tensor = torch.ops.distill_core_cuda.match_rows(table.to(a[0].device), rows, difference)
    return found


def combine_rows(a: Sequence[Tensor], b: Sequence[Tensor], by_R3: Tensor, into: Tensor) -> None:
    """Fills `into`, all rows flattened: by[r, 0] a + by[r, 1] b + by[r, 2] sign(a - b)."""
    parts = [part.view(x.shape) for part, x in zip(torch.split(into, [x.numel() for x in a]), a, strict=True)]
    table, _ = table_of(a, b, parts)
    torch.ops.distill_core_cuda.combine_rows(table.to(into.device), by_R3.double().contiguous(), into)
