"""`sparse_kl` on logits by Triton: one launch, a row read once for its value and once for its gradient.

Legend: N rows, V vocabulary, K support. `row_kernels.py` holds the kernel.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..support_logits.triton import block, readable_rows, sorted_support
from ..triton_configs import ALIGNED, chip_of
from ..triton_probe import device_of
from .row_kernels import kl_rows


def rows_into(
    z_NV: Tensor,
    ids_NK: Tensor,
    logp_NK: Tensor,
    tail_logp_N: Tensor | None,
    mode: int,
    reverse: bool,
    temperature: float,
    share: float,
    upstream_N: Tensor | None,
    loss_N: Tensor,
    gradient_NV: Tensor | None,
) -> None:
    """Fill losses (fp64) and the gradient of `share * sum(upstream * losses)`, which may be `z_NV` itself.

    The teacher's numbers and the upstream gradient are contiguous and fp64; the gradient's last dimension is
    contiguous.
    """
    z_NV, ids_NK = readable_rows(z_NV), ids_NK.contiguous()
    n, vocabulary = z_NV.shape
    if n == 0:
        return
    columns, warps = chip_of(z_NV.device).rows
    given = gradient_NV is not None
    dz_NV = z_NV if gradient_NV is None else gradient_NV
    with device_of(z_NV):
        kl_rows[(n,)](
            z_NV,
            dz_NV,
            ids_NK,
            sorted_support(ids_NK),
            logp_NK,
            tail_logp_N,
            torch.tensor([1.0 / temperature, share], dtype=torch.float64, device=z_NV.device),
            upstream_N,
            loss_N,
            z_NV.stride(0),
            dz_NV.stride(0),
            vocabulary,
            ids_NK.shape[1],
            MODE=mode,
            REVERSE=reverse,
            GIVEN=tail_logp_N is not None,
            GRADIENT=given,
            UPSTREAM=upstream_N is not None,
            BLOCK_V=columns,
            BLOCK_K=block(ids_NK.shape[1]),
            ALIGNED=ALIGNED,
            ALIKE=z_NV.stride(0) == dz_NV.stride(0),
            num_warps=warps,
        )
