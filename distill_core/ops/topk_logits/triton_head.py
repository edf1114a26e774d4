"""`linear_topk_logits` by Triton, fused: tiles of logits live in registers, a few numbers per tile leave them.

Legend: N rows, V vocabulary, D hidden, K entries kept, T temperatures, S tiles. `head_kernels.py` holds the kernels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..support_logits.chunked import LinearSource
from ..support_logits.triton import block, inverse, readable_rows
from ..triton_configs import GROUP_ROWS, chip_of
from ..triton_probe import device_of, interpreted
from .head_kernels import head_topk, merge_topk

FUSED_K = 16
"""Entries that are taken out of a tile one by one, each for about two instructions per logit of it (README)."""
CANDIDATES = 2048
"""Sorted at a time by `merge_topk`."""


def serves(source: LinearSource, k: int) -> bool:
    """Whether the fused kernels take this call; chunks of logits and the row kernels take the others."""
    return 1 <= k <= FUSED_K and source.hidden_ND.dtype == source.head.weight_VD.dtype


def fused_into(
    source: LinearSource, k: int, temperatures: Sequence[float], ids_NK: Tensor, top_NK: Tensor, tail_NT: Tensor
) -> None:
    """Fill ids (int64), raw logits and tails (fp32) of all rows; outputs are contiguous."""
    hidden_ND, weight_VD = (readable_rows(x) for x in (source.hidden_ND, source.head.weight_VD))
    head, bias_V, chip = source.head, source.head.bias_V, chip_of(hidden_ND.device)
    size = chip.topk32 if hidden_ND.dtype == torch.float32 else chip.topk16
    (n, width), vocabulary = hidden_ND.shape, source.vocabulary
    if n == 0:
        return
    tiles = -(-vocabulary // size.columns)
    key_NSK = ids_NK.new_empty(n, tiles, k)
    rest_NS, sum_NTS = tail_NT.new_empty(n, tiles), tail_NT.new_empty(n, len(temperatures), tiles)
    inv_T = inverse(list(temperatures), hidden_ND)
    lanes = max(2, block(k))  # tl.topk sorts no single lane
    with device_of(hidden_ND):
        head_topk[(-(-n // size.rows) * tiles,)](
            hidden_ND,
            weight_VD,
            None if bias_V is None else bias_V.contiguous(),
            inv_T,
            key_NSK,
            rest_NS,
            sum_NTS,
            n,
            vocabulary,
            width,
            k,
            hidden_ND.stride(0),
            weight_VD.stride(0),
            1.0 if head.softcap is None else head.softcap,
            head.logit_scale,
            T=len(temperatures),
            BLOCK_M=size.rows,
            BLOCK_V=size.columns,
            BLOCK_D=size.depth,
            GROUP_M=GROUP_ROWS,
            EVEN_D=width % size.depth == 0,
            BIAS=bias_V is not None,
            CAP=head.softcap is not None,
            PRECISION=size.precision,
            UPCAST=interpreted(),
            num_warps=size.warps,
            num_stages=size.stages,
        )
        merge_topk[(n,)](
            key_NSK,
            rest_NS,
            sum_NTS,
            inv_T,
            ids_NK,
            top_NK,
            tail_NT,
            tiles,
            k,
            T=len(temperatures),
            BLOCK_C=max(lanes, min(CANDIDATES, block(tiles * k))),
            BLOCK_K=lanes,
            BLOCK_S=block(tiles),
            num_warps=8,
        )
