"""Sampling by the CUDA kernel: two reads of the logits, fp64 masses, the uniforms of `counter_random`.

Legend: N rows, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .. import cuda_library
from ..buffers import with_rows

cuda_library.define(
    "sample_rows(Tensor logits, int n_valid, int k, bool multinomial, float temperature, int seed, Tensor row_keys)"
    " -> (Tensor, Tensor)",
)


def sample_rows(
    logits_NV: Tensor, k: int, method: str, temperature: float, seed: int, row_keys_N: Tensor, n_valid: int
) -> tuple[Tensor, Tensor]:
    """Ids int64 and weights fp32 [N, k]; -1 and 0 on padding."""
    rows_NV = with_rows(logits_NV)
    keys_N = row_keys_N.long().contiguous()
    found: tuple[Tensor, Tensor] = torch.ops.distill_core_cuda.sample_rows(
        rows_NV, n_valid, k, method == "multinomial", temperature, seed, keys_N
    )
    return found
