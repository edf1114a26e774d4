"""The compiled CPU kernel of `topk_logits`.

Legend: N rows, L valid vocabulary entries, K entries kept, T temperatures.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .. import cpu_library
from ..buffers import with_rows

cpu_library.define(
    "topk(Tensor logits, int k, Tensor temperatures, Tensor(a!) ids, Tensor(b!) values, Tensor(c!) tails) -> ()"
)


def topk_into(
    z_NL: Tensor, k: int, temperatures: Sequence[float], ids_NK: Tensor, value_NK: Tensor, tail_NT: Tensor
) -> None:
    """Fills contiguous int64 ids, fp32 values and fp32 tails. `z_NL` is fp32, bf16 or fp16 with any row stride."""
    t_T = torch.tensor(temperatures, dtype=torch.float64)
    torch.ops.distill_core_cpu.topk(with_rows(z_NL), k, t_T, ids_NK, value_NK, tail_NT)
