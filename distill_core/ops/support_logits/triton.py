"""`support_logits` by Triton: statistics of logits that exist and their gradient, one program per row.

Legend: N rows, V vocabulary, K support, T temperatures. `row_kernels.py` holds the kernels.
"""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from ..triton_configs import ALIGNED, chip_of
from ..triton_probe import device_of
from .chunked import LogitsSource, Request, empty_statistics
from .reference import Statistics
from .row_kernels import NONE, rows_backward, rows_forward
from .tile import Cotangents


def block(size: int) -> int:
    """The power of two that holds `size` lanes, at least 1."""
    width: int = triton.next_power_of_2(max(1, size))
    return width


def readable_rows(x_NV: Tensor) -> Tensor:
    """The tensor itself if its rows can be read in place (any row stride), else a copy."""
    return x_NV if x_NV.stride(1) == 1 or x_NV.shape[1] <= 1 else x_NV.contiguous()


def sorted_support(ids_NK: Tensor) -> Tensor:
    """[N, K] int32 ids, increasing in each row, padding last."""
    return torch.where(ids_NK < 0, NONE.value, ids_NK).to(torch.int32).sort(dim=1).values.contiguous()


def inverse(temperatures: list[float] | tuple[float, ...], like: Tensor) -> Tensor:
    """1 / t, fp32."""
    return torch.tensor([1.0 / t for t in temperatures], dtype=torch.float32, device=like.device)


def forward(source: LogitsSource, request: Request) -> Statistics:
    """Statistics of all rows, in one read of the logits."""
    out = empty_statistics(source, request)
    z_NV, ids_NK = readable_rows(source.logits_NV), request.ids_NK.contiguous()
    n, vocabulary = z_NV.shape
    if n == 0:
        return out
    columns, warps = chip_of(z_NV.device).rows
    temperatures, extras = list(request.temperatures), request.extras
    with device_of(z_NV):
        rows_forward[(n,)](
            z_NV,
            ids_NK,
            sorted_support(ids_NK),
            None if request.labels_N is None else request.labels_N.contiguous(),
            inverse(temperatures, z_NV),
            *out,
            z_NV.stride(0),
            vocabulary,
            ids_NK.shape[1],
            T=len(temperatures),
            BLOCK_V=columns,
            BLOCK_K=block(ids_NK.shape[1]),
            BLOCK_T=block(len(temperatures)),
            ALIGNED=ALIGNED,
            LABELS=request.labels_N is not None,
            MEAN="mean" in extras,
            ENTROPY="entropy" in extras,
            TOP1="top1" in extras,
            num_warps=warps,
        )
    return out


def _fp32(x: Tensor | None, *shape: int, like: Tensor) -> Tensor:
    if x is None:
        return torch.zeros(shape, dtype=torch.float32, device=like.device)
    return x.to(torch.float32).contiguous()


def _entropy_parts(
    source: LogitsSource, request: Request, dentropy_NT: Tensor, inv_T: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """g_H / t, the full logsumexp and the entropy, [N, T] each. Costs one more read of the logits."""
    found = forward(source, request)
    parts_NTK1 = torch.cat([found.support_NK[:, None] * inv_T[:, None], found.tail_NT[:, :, None]], dim=2)
    lse_NT = torch.logsumexp(parts_NTK1, dim=2)
    return (dentropy_NT * inv_T).contiguous(), lse_NT.masked_fill_(torch.isneginf(lse_NT), 0.0), found.entropy_NT


def gradient_into(
    dz_NV: Tensor, source: LogitsSource, request: Request, tail_NT: Tensor, cotangents: Cotangents
) -> None:
    """Gradient with respect to `h W^T + b` (to the logits, without soft cap and scale); `dz_NV` may be the logits."""
    z_NV, ids_NK = readable_rows(source.logits_NV), request.ids_NK.contiguous()
    n, vocabulary = z_NV.shape
    if n == 0:
        return
    columns, warps = chip_of(z_NV.device).rows_back
    inv_T = inverse(list(request.temperatures), z_NV)
    empty_NT = torch.isneginf(tail_NT)
    share_NT = (_fp32(cotangents.tail_NT, *tail_NT.shape, like=z_NV) * inv_T).masked_fill_(empty_NT, 0.0)
    tail_NT = tail_NT.masked_fill(empty_NT, 0.0).contiguous()
    spread_NT, lse_NT, entropy_NT = tail_NT, tail_NT, tail_NT
    if cotangents.entropy_NT is not None:
        spread_NT, lse_NT, entropy_NT = _entropy_parts(source, request, cotangents.entropy_NT, inv_T)
    labels_N = request.labels_N if cotangents.label_N is not None else None
    with device_of(z_NV):
        rows_backward[(n,)](
            z_NV,
            dz_NV,
            ids_NK,
            None if labels_N is None else labels_N.contiguous(),
            _fp32(cotangents.support_NK, *ids_NK.shape, like=z_NV),
            share_NT,
            tail_NT,
            None if labels_N is None else _fp32(cotangents.label_N, n, like=z_NV),
            None if cotangents.mean_N is None else _fp32(cotangents.mean_N, n, like=z_NV),
            spread_NT,
            lse_NT,
            entropy_NT,
            inv_T,
            z_NV.stride(0),
            dz_NV.stride(0),
            vocabulary,
            ids_NK.shape[1],
            1.0 if request.softcap is None else 1.0 / request.softcap,
            request.logit_scale,
            T=len(request.temperatures),
            BLOCK_V=columns,
            BLOCK_K=block(ids_NK.shape[1]),
            ALIGNED=ALIGNED,
            ALIKE=z_NV.stride(0) == dz_NV.stride(0),
            LABELS=labels_N is not None,
            MEAN=cotangents.mean_N is not None,
            ENTROPY=cotangents.entropy_NT is not None,
            CAP=request.softcap is not None,
            num_warps=warps,
        )


def backward(source: LogitsSource, request: Request, tail_NT: Tensor, cotangents: Cotangents) -> Tensor:
    """Gradient of the logits in their own dtype: one read, one write (one more read with an entropy)."""
    dlogits_NV = torch.empty_like(source.logits_NV, memory_format=torch.contiguous_format)
    gradient_into(dlogits_NV, source, request, tail_NT, cotangents)
    return dlogits_NV
