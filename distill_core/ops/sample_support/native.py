"""The compiled CPU kernel of `sample_support`.

Legend: N rows, L valid vocabulary entries, K entries.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .. import cpu_library
from ..buffers import with_rows

cpu_library.define(
    "sample(Tensor logits, int k, bool threshold, float temperature, int seed, Tensor keys, Tensor(a!) ids,"
    " Tensor(b!) weights) -> ()"
)


def sample_into(
    z_NL: Tensor,
    k: int,
    method: str,
    temperature: float,
    seed: int,
    keys_N: Tensor,
    ids_NK: Tensor,
    weights_NK: Tensor,
) -> None:
    """Fills contiguous int64 ids and fp32 weights; k and L at least 1. `z_NL`: fp32, bf16 or fp16, any row stride."""
    keys_N = keys_N.long().contiguous()
    torch.ops.distill_core_cpu.sample(
        with_rows(z_NL), k, method == "threshold", temperature, seed, keys_N, ids_NK, weights_NK
    )
