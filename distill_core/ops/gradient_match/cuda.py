"""Gradient matching by the CUDA kernels: one launch over all tensors of two lists for the sums of every row, one for
the gradient; what lies between them are [R] numbers.

Legend: L tensors, R rows of all tensors together.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .. import cuda_library
from ..head import compute_dtype
from .reference import Rule, as_rows, coefficients, from_moments, row_weights

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


def forward(a: Sequence[Tensor], b: Sequence[Tensor], weights: list[float], rule: Rule) -> tuple[Tensor, Tensor]:
    """Value; [R, 3] of cosine, |a|, |b| for the backward pass (nothing for the other distances)."""
    rows_a, rows_b = _matrices(a, rule), _matrices(b, rule)
    dtype = compute_dtype(*a)
    if rule.distance != "cosine":
        sums_R3 = match_rows(rows_a, rows_b, difference=True)
        each_R = sums_R3[:, 0] + (sums_R3[:, 1] if rule.distance == "l2+l1" else 0)
        return (_per_row(rows_a, weights) * each_R).sum().to(dtype), a[0].new_empty(0, 3, dtype=dtype)
    moments_R3 = match_rows(rows_a, rows_b)
    if rule.group == "global":
        moments_R3 = (_per_row(rows_a, weights)[:, None] * moments_R3).sum(0, keepdim=True)
    return from_moments(moments_R3, row_weights(a, weights, rule.group), rule, dtype)


def backward(
    upstream: Tensor, a: Sequence[Tensor], b: Sequence[Tensor], statistics: Tensor, weights: list[float], rule: Rule
) -> Tensor:
    """Gradient of all of `a`, flattened one after the other."""
    rows_a, rows_b = _matrices(a, rule), _matrices(b, rule)
    flat = a[0].new_empty(sum(x.numel() for x in a))
    scale_R = upstream.double() * _per_row(rows_a, weights)
    if rule.distance != "cosine":
        slope = torch.tensor([2.0, -2.0, float(rule.distance == "l2+l1")], dtype=torch.float64, device=flat.device)
        combine_rows(rows_a, rows_b, scale_R[:, None] * slope, flat)
        return flat
    cosine, na, nb = statistics.double().unbind(1)
    c = coefficients(cosine, na, nb, rule)
    alpha_R, beta_R = c.alpha.expand(scale_R.shape), c.beta.expand(scale_R.shape)
    by_R3 = scale_R[:, None] * torch.stack([beta_R, alpha_R, torch.zeros_like(alpha_R)], dim=1)
    combine_rows(rows_a, rows_b, by_R3, flat)
    return flat


def _matrices(tensors: Sequence[Tensor], rule: Rule) -> list[Tensor]:
    group = rule.group if rule.distance == "cosine" else "tensor"
    return [as_rows(x, group).contiguous() for x in tensors]


def _per_row(matrices: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """[R] fp64: each row the weight of its tensor."""
    counts = [x.shape[0] for x in matrices]
    each = [float(w) for w, n in zip(weights, counts, strict=True) for _ in range(n)]
    return torch.tensor(each, dtype=torch.float64, device=matrices[0].device)
