"""The three products of a narrow head in C++: schemas and calls.

Legend: C rows of a chunk, V vocabulary, D hidden.

With D <= 32 there is no arithmetic to speak of; BLAS, whose blocks are made for large D, takes several times as long
as the memory does. The weight and its gradient are transposed, [D, V]. Logits go by rows, gradients by slabs of 1,024
columns: sums do not depend on the number of threads.
"""

from __future__ import annotations

import torch
from torch import Tensor

from . import cpu_library
from .buffers import with_rows

cpu_library.define(
    "thin_logits(Tensor hidden, Tensor weight_t, Tensor? bias, Tensor(a!) out) -> ()",
    "thin_gradients(Tensor logits_grad, Tensor hidden, Tensor weight_t, Tensor(a!)? hidden_grad,"
    " Tensor(b!)? weight_t_grad, bool add) -> ()",
)


def _rows(x: Tensor) -> Tensor:
    """fp32 with contiguous rows; a copy only where it is not."""
    return with_rows(x.float())


def logits_into(z_CV: Tensor, hidden_CD: Tensor, weight_DV: Tensor, bias_V: Tensor | None) -> None:
    """`z = h W^T + b`; `z_CV` fp32 with contiguous rows."""
    bias_V = None if bias_V is None else bias_V.float().contiguous()
    torch.ops.distill_core_cpu.thin_logits(_rows(hidden_CD), _rows(weight_DV), bias_V, z_CV)


def gradients_into(
    dpre_CV: Tensor,
    hidden_CD: Tensor,
    weight_DV: Tensor,
    dhidden_CD: Tensor | None,
    dweight_DV: Tensor | None,
    *,
    add: bool,
) -> None:
    """`dhidden = dpre W` and `dweight^T = h^T dpre` (on top of what is there if `add`); None leaves one out."""
    direct = dhidden_CD is None or (dhidden_CD.dtype == torch.float32 and dhidden_CD.stride(1) == 1)
    into_CD = dhidden_CD if direct else torch.empty_like(hidden_CD, dtype=torch.float32).contiguous()
    torch.ops.distill_core_cpu.thin_gradients(dpre_CV, _rows(hidden_CD), _rows(weight_DV), into_CD, dweight_DV, add)
    if dhidden_CD is not None and into_CD is not None and not direct:
        dhidden_CD.copy_(into_CD)
