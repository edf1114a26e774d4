"""The forward pass of `linear_support_logits` by Triton: tiles of logits live in registers alone.

Legend: N rows, V vocabulary, D hidden, K support, T temperatures. `head_kernels.py` holds the kernels.

With extras, and where hidden states and weight have different dtypes, chunks of logits are made by the library's
product and read by the row kernel (`TritonTile`) instead. So is the backward pass, in `chunked.py`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..triton_configs import GROUP_ROWS, chip_of
from ..triton_probe import device_of, interpreted
from . import chunked
from . import triton as on_logits
from .chunked import LinearSource, Request, empty_statistics
from .head_kernels import head_forward, reduce_tiles
from .reference import Statistics

REDUCED_ROWS, REDUCED_TILES = 32, 32


def forward(source: LinearSource, request: Request) -> Statistics:
    """Statistics of all rows."""
    if request.extras or source.hidden_ND.dtype != source.head.weight_VD.dtype:
        return chunked.forward(source, request)
    return _forward_fused(source, request)


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
