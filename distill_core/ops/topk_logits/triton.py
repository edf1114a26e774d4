"""`topk_logits` by Triton: block maxima and sums in one read, then the few blocks that matter, sorted.

Legend: N rows, V vocabulary, K entries kept, T temperatures, B blocks. `row_kernels.py` holds the kernels.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ..support_logits.triton import block, inverse, readable_rows
from ..triton_configs import ALIGNED, TopK, chip_of
from ..triton_probe import device_of
from .reference import topk_and_tail
from .row_kernels import block_maxima, select_topk


def widths(size: TopK, k: int) -> tuple[int, int, int]:
    """Columns of a block, blocks of one program of `block_maxima`, and lanes for k entries."""
    lanes = max(2, block(k))  # tl.topk sorts no single lane
    width = max(size.narrowest, min(size.widest, size.sorted // lanes))
    return width, max(1, size.columns // width), lanes


def topk_into(
    z_NV: Tensor, k: int, temperatures: Sequence[float], ids_NK: Tensor, top_NK: Tensor, tail_NT: Tensor
) -> None:
    """Fill ids (int64), raw logits and tails (fp32) of all rows; outputs are contiguous, k is at most `MAX_K`."""
    z_NV = readable_rows(z_NV)
    n, vocabulary = z_NV.shape
    if n == 0:
        return
    if vocabulary == 0:
        for into, value in zip((ids_NK, top_NK, tail_NT), topk_and_tail(z_NV.float(), k, temperatures), strict=True):
            into.copy_(value)
        return
    size = chip_of(z_NV.device).topk
    width, per_program, lanes = widths(size, k)
    blocks = -(-(vocabulary + ALIGNED - 1) // width)  # a row may start anywhere on its grid
    steps = -(-blocks // per_program)
    top_NB = z_NV.new_empty(n, blocks, dtype=tail_NT.dtype)
    sum_NTB = z_NV.new_empty(n, len(temperatures), blocks, dtype=tail_NT.dtype)
    inv_T = inverse(list(temperatures), z_NV)
    with device_of(z_NV):
        block_maxima[(n * steps,)](
            z_NV,
            inv_T,
            top_NB,
            sum_NTB,
            z_NV.stride(0),
            vocabulary,
            blocks,
            steps,
            T=len(temperatures),
            BLOCKS=per_program,
            WIDTH=width,
            ALIGNED=ALIGNED,
            num_warps=size.warps,
        )
        select_topk[(n,)](
            z_NV,
            inv_T,
            top_NB,
            sum_NTB,
            ids_NK,
            top_NK,
            tail_NT,
            z_NV.stride(0),
            vocabulary,
            blocks,
            k,
            T=len(temperatures),
            BLOCK_B=max(lanes, block(blocks)),
            BLOCK_K=lanes,
            WIDTH=width,
            ALIGNED=ALIGNED,
            num_warps=size.warps,
        )
