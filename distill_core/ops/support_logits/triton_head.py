"""`linear_support_logits` by Triton: a fused forward pass, and a backward pass in row chunks.

Legend: N rows, C rows of a chunk, V vocabulary, D hidden, K support, T temperatures.

Forward: tiles of logits live in registers alone (`head_kernels.py`). With extras, and where hidden states and weight
have different dtypes, chunks of logits are made by the library's product and read by the row kernel instead. Backward:
the library's products around the row kernel, which turns logits into their gradient in place.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..triton_configs import GROUP_ROWS, chip_of
from ..triton_probe import device_of, interpreted
from . import triton as on_logits
from .chunked import LinearSource, LogitsSource, Request, cut, empty_statistics, rows_of
from .head_kernels import head_forward, reduce_tiles
from .reference import Statistics
from .tile import Cotangents

REDUCED_ROWS, REDUCED_TILES = 32, 32


def _of_chunk(request: Request, rows: slice) -> Request:
    labels = None if request.labels_N is None else request.labels_N[rows]
    return request._replace(ids_NK=request.ids_NK[rows], labels_N=labels)


def forward(source: LinearSource, request: Request) -> Statistics:
    """Statistics of all rows."""
    if request.extras or source.hidden_ND.dtype != source.head.weight_VD.dtype:
        return _forward_in_chunks(source, request)
    return _forward_fused(source, request)


def _forward_in_chunks(source: LinearSource, request: Request) -> Statistics:
    out = empty_statistics(source, request)
    for rows in rows_of(source, None):
        found = on_logits.forward(LogitsSource(source.logits(rows)), _of_chunk(request, rows))
        for into, value in zip(out, found, strict=True):
            if into.numel():
                into[rows] = value
    return out


def _sorted_by_tile(ids_NK: Tensor, vocabulary: int, columns: int) -> tuple[Tensor, Tensor, Tensor]:
    """Sorted ids, where each came from [N, K], and where each tile's ids start [N, tiles + 1]; all int32."""
    sorted_NK, order_NK = ids_NK.to(torch.int32).sort(dim=1)
    edges_S = torch.arange(-(-vocabulary // columns) + 1, dtype=torch.int32, device=ids_NK.device) * columns
    edges_NS = edges_S.expand(ids_NK.shape[0], -1).contiguous()
    starts_NS = torch.searchsorted(sorted_NK.contiguous(), edges_NS, out_int32=True)
    return sorted_NK.contiguous(), order_NK.to(torch.int32).contiguous(), starts_NS


def _forward_fused(source: LinearSource, request: Request) -> Statistics:
    out = empty_statistics(source, request)
    n, vocabulary = source.hidden_ND.shape[0], source.vocabulary
    if n == 0:
        return out
    hidden_ND, weight_VD = (on_logits.readable_rows(x) for x in (source.hidden_ND, source.head.weight_VD))
    width, bias_V = hidden_ND.shape[1], source.head.bias_V
    chip = chip_of(hidden_ND.device)
    size = chip.head32 if hidden_ND.dtype == torch.float32 else chip.head16
    tiles, temperatures = -(-vocabulary // size.columns), list(request.temperatures)
    top_SN = hidden_ND.new_empty(tiles, n, dtype=torch.float32)
    sum_STN = hidden_ND.new_empty(tiles, len(temperatures), n, dtype=torch.float32)
    inv_T = on_logits.inverse(temperatures, hidden_ND)
    out.support_NK.fill_(-torch.inf)
    out.label_N.zero_()
    with device_of(hidden_ND):
        head_forward[(-(-n // size.rows) * tiles,)](
            hidden_ND,
            weight_VD,
            None if bias_V is None else bias_V.contiguous(),
            *_sorted_by_tile(request.ids_NK, vocabulary, size.columns),
            None if request.labels_N is None else request.labels_N.contiguous(),
            inv_T,
            top_SN,
            sum_STN,
            out.support_NK,
            out.label_N,
            n,
            vocabulary,
            width,
            request.ids_NK.shape[1],
            hidden_ND.stride(0),
            weight_VD.stride(0),
            1.0 if request.softcap is None else request.softcap,
            request.logit_scale,
            T=len(temperatures),
            BLOCK_M=size.rows,
            BLOCK_V=size.columns,
            BLOCK_D=size.depth,
            GROUP_M=GROUP_ROWS,
            EVEN_D=width % size.depth == 0,
            BIAS=bias_V is not None,
            CAP=request.softcap is not None,
            LABELS=request.labels_N is not None,
            PRECISION=size.precision,
            UPCAST=interpreted(),
            num_warps=size.warps,
            num_stages=size.stages,
        )
        reduce_tiles[(-(-n // REDUCED_ROWS), len(temperatures))](
            top_SN,
            sum_STN,
            inv_T,
            out.tail_NT,
            n,
            tiles,
            T=len(temperatures),
            BLOCK_R=REDUCED_ROWS,
            BLOCK_S=REDUCED_TILES,
            num_warps=4,
        )
    return out


def backward(
    source: LinearSource, request: Request, tail_NT: Tensor, cotangents: Cotangents, needs: Sequence[bool]
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of hidden, weight and bias in their own dtypes; an empty tensor where `needs` is False."""
    head, hidden_ND = source.head, source.hidden_ND
    dhidden_ND = torch.empty_like(hidden_ND) if needs[0] else hidden_ND.new_empty(0)
    dweight_VD = torch.zeros_like(head.weight_VD, dtype=head.dtype) if needs[1] else head.weight_VD.new_empty(0)
    dbias_V = hidden_ND.new_zeros(source.vocabulary if needs[2] else 0, dtype=head.dtype)
    for rows in rows_of(source, None):
        z_CV = source.logits(rows)
        on_logits.gradient_into(
            z_CV, LogitsSource(z_CV), _of_chunk(request, rows), tail_NT[rows], cut(cotangents, rows)
        )
        if needs[0]:
            dhidden_ND[rows] = head.hidden_gradient(z_CV, hidden_ND[rows])
        if needs[1]:
            head.add_weight_gradient(dweight_VD, z_CV, hidden_ND[rows])
        if needs[2]:
            dbias_V += z_CV.sum(0)
    bias_dtype = hidden_ND.dtype if head.bias_V is None else head.bias_V.dtype
    return dhidden_ND, dweight_VD.to(head.weight_VD.dtype), dbias_V.to(bias_dtype)
