"""Any row-wise distillation loss fused with the head: gradients taken in the forward pass.

Legend: N rows, n rows of a chunk, V vocabulary, D hidden, K support.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ...shapes import BiasV, HiddenND, IdsNK, LabelsN, Scalar, WeightVD
from .. import cpu_library
from ..arguments import (
    check_extras,
    check_head,
    check_id_values,
    check_ids,
    check_label_values,
    check_row_vector,
    check_temperatures,
    check_whole,
)
from ..dispatch import Impl, declare, offer, select
from ..head import Head, compute_dtype
from ..support_logits.chunked import LinearSource, Request
from ..transforms import refuse_transforms
from ..triton_probe import offer_kernels
from .once import SparseDistill
from .reference import LossFn

__all__ = ["LossFn", "sparse_distill_loss"]

declare("sparse_distill_loss")
offer("sparse_distill_loss", "cpu", cpu_library.available, dtypes=cpu_library.DTYPES)
offer_kernels("sparse_distill_loss")


def sparse_distill_loss(
    hidden_ND: HiddenND,
    weight_VD: WeightVD,
    ids_NK: IdsNK,
    loss_fn: LossFn,
    *,
    labels_N: LabelsN | None = None,
    temperatures: Sequence[float] = (1.0,),
    bias: BiasV | None = None,
    softcap: float | None = None,
    logit_scale: float = 1.0,
    extras: Sequence[str] = (),
    params: Sequence[Tensor] = (),
    chunk_rows: int | None = None,
    impl: Impl = "auto",
) -> Scalar:
    """Sum over rows of a loss on support logits; walks row chunks and takes the gradient in the forward pass.

    `L = sum_n loss_fn(support, rows)[n]` with the support logits of `linear_support_logits`. Three matrix products
    instead of four, one chunk of logits alive, gradients of weight, bias and params accumulated in fp32. An input that
    does not require grad costs no gradient. Differentiable once: a second backward, or a second derivative, raises.

    Args:
        hidden_ND: [N, D] floating point.
        weight_VD: [V, D] floating point, the head's weight.
        ids_NK: [N, K] int32 or int64, unique in a row, -1 pads.
        loss_fn: called as `loss_fn(support, rows)` per chunk, with the chunk's `SupportLogits` and its slice of
            `range(N)`; returns [n] losses. Tensors it uses that require grad must be listed in `params`.
        labels_N: [N], -100 ignores the row. Default None.
        temperatures, bias, softcap, logit_scale, extras: as in `linear_support_logits`.
        params: further tensors that get gradients, such as a learned temperature. Default ().
        chunk_rows: rows per chunk. Default: at most 256, and at most 64 MiB of logits.
        impl: "auto", "reference", "cpu", "triton" or "cuda".

    Returns a scalar, fp32 (fp64 for fp64 inputs); 0 for N = 0. Under `torch.no_grad()` only the value is computed.
    Raises `ValueError` or `TypeError` for wrong arguments, a loss of the wrong shape and undeclared tensors.

    >>> import torch
    >>> from distill_core import ops
    >>> w = torch.zeros(4, 2, requires_grad=True)
    >>> ids = torch.tensor([[0], [1], [2]])
    >>> ops.sparse_distill_loss(torch.ones(3, 2), w, ids, lambda support, rows: -support.log_probs()[:, 0])
    tensor(4.1589, grad_fn=<SparseDistillBackward>)
    """
    op = "sparse_distill_loss"
    check_head(op, hidden_ND, weight_VD, bias, softcap, logit_scale)
    if not isinstance(params, tuple | list):
        raise TypeError(f"{op}: params must be a tuple of tensors such as (scale,); got a {type(params).__name__}")
    refuse_transforms(op, [hidden_ND, weight_VD, bias, *params], values_too=True)
    check_ids(op, ids_NK, hidden_ND)
    check_id_values(op, ids_NK, weight_VD.shape[0])
    if labels_N is not None:
        check_row_vector(op, "labels_N", labels_N, hidden_ND, integer=True)
        check_label_values(op, labels_N, weight_VD.shape[0])
    checked = check_temperatures(op, temperatures)
    extras = check_extras(op, extras)
    if not callable(loss_fn):
        raise TypeError(f"{op}: loss_fn must be callable as loss_fn(support, rows); got {type(loss_fn).__name__}")
    if chunk_rows is not None:
        check_whole(op, "chunk_rows", chunk_rows)
    if chunk_rows is not None and chunk_rows < 1:
        raise ValueError(f"{op}: chunk_rows must be at least 1, or None for the default; got {chunk_rows}")
    for i, p in enumerate(params):
        if not isinstance(p, Tensor):
            raise TypeError(f"{op}: params must be a sequence of tensors; entry {i} is a {type(p).__name__}")
    chosen = select(op, impl, hidden_ND.device.type, hidden_ND.dtype, weight_VD.dtype)
    # Detached views: the walk runs inside forward, where no graph may be recorded through them.
    head = Head(
        weight_VD.detach(),
        None if bias is None else bias.detach(),
        softcap,
        float(logit_scale),
        compute_dtype(hidden_ND, weight_VD),
        chosen,
    )
    source = LinearSource(hidden_ND.detach(), head)
    request = Request(ids_NK, labels_N, checked, extras, softcap, float(logit_scale), chosen)
    plan = (source, request, loss_fn, torch.is_grad_enabled(), chunk_rows)
    loss: Tensor = SparseDistill.apply(hidden_ND, weight_VD, bias, plan, *params)  # type: ignore[no-untyped-call]
    return loss
