"""Unpacking by the CUDA kernels: the packed columns of whole sequences become padded rows.

Legend: S sequences, W words of 8 bytes, R rows of all sequences, K support size, M temperatures.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .. import cuda_library, dispatch

METHODS = ("topk", "threshold", "multinomial")
"""Methods of a store, in the order of the kernels' codes."""

cuda_library.define(
    "unpack_rows(Tensor words, Tensor table, int rows, int k, int method, int vocabulary, Tensor temperatures,"
    " float value_step, bool with_entropy) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
)


def _host_codec() -> tuple[bool, str]:
    return True, "the store's codec, on the host"


dispatch.offer("unpack_rows", "reference", _host_codec, devices=())
dispatch.offer("unpack_rows", "cuda", cuda_library.available)


def unpack_rows(
    words_W: Tensor,
    table_S16: Tensor,
    *,
    rows: int,
    k: int,
    method: str,
    vocabulary: int,
    temperatures_M: Tensor,
    value_step: float,
    with_entropy: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Ids int64 and values fp32 [R, K], tails fp32 [R, M], entropy fp32 [R] (or [0]), and status int32 [S, 4].

    Values are logits (top-k) or weights; a threshold sample has its threshold as the one tail, a multinomial one none.
    A status that is not 0 names refused columns as bits: 1 counts, 2 ids, 4 sorted ids, 8 values, 16 tail, 32 entropy,
    64 the table. Rows of a refused sequence mean nothing.
    """
    found: tuple[Tensor, Tensor, Tensor, Tensor, Tensor] = torch.ops.distill_core_cuda.unpack_rows(
        words_W, table_S16, rows, k, METHODS.index(method), vocabulary, temperatures_M, value_step, with_entropy
    )
    return found
