"""Top-k and tails by the CUDA kernel: one read of the logits per four temperatures.

Legend: N rows, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .. import cuda_library
from ..buffers import with_rows

cuda_library.define(
    "topk_rows(Tensor logits, int n_valid, int k, float[] temperatures) -> (Tensor, Tensor, Tensor)",
)


def topk_rows(logits_NV: Tensor, k: int, temperatures: list[float], n_valid: int) -> tuple[Tensor, Tensor, Tensor]:
    """Ids int64 and raw logits fp32 [N, k], logsumexp of the rest fp32 [N, T]."""
    rows_NV = with_rows(logits_NV)
    found: tuple[Tensor, Tensor, Tensor] = torch.ops.distill_core_cuda.topk_rows(rows_NV, n_valid, k, temperatures)
    return found
