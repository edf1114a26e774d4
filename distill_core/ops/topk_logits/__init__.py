"""The teacher's side: top-k logits with an exact tail, from logits or fused with the head.

Legend: N rows, V vocabulary, D hidden, K entries kept, T temperatures.
"""

from __future__ import annotations

from collections.abc import Sequence

from ...shapes import BiasV, HiddenND, LogitsNV, WeightVD
from .. import cpu_library, cuda_library
from ..arguments import check_head, check_k, check_logits, check_temperatures, check_vocabulary_limit
from ..dispatch import Impl, declare, offer, select
from ..triton_probe import offer_kernels
from ..triton_probe import too_many as too_many_for_triton
from .ops import linear_topk_logits_op, topk_logits_op
from .result import TopK

__all__ = ["TopK", "linear_topk_logits", "topk_logits"]

for _op in ("topk_logits", "linear_topk_logits"):
    declare(_op)
    offer(_op, "cpu", cpu_library.available, dtypes=cpu_library.DTYPES)
    offer_kernels(_op)
    offer(_op, "cuda", cuda_library.available, dtypes=cuda_library.DTYPES)


def topk_logits(
    logits_NV: LogitsNV,
    k: int,
    *,
    temperatures: Sequence[float] = (1.0,),
    valid_vocab: int | None = None,
    impl: Impl = "auto",
) -> TopK:
    """The k largest logits of each row and, per temperature, the logsumexp of the rest. Not differentiable.

    `tail_t = logsumexp(z_v / t for v outside the top k, v < valid_vocab)`.

    Args:
        logits_NV: [N, V] floating point.
        k: entries kept, 0 .. valid_vocab.
        temperatures: different positive numbers. Default (1.0,).
        valid_vocab: ids at or above it are ignored (padding rows of a head). Default V.
        impl: "auto", "reference", "cpu", "triton" or "cuda".

    Returns `TopK`, largest first, equal logits by lowest id. Raises `ValueError` or `TypeError` for wrong arguments.

    >>> import torch
    >>> from distill_core import ops
    >>> ops.topk_logits(torch.tensor([[1.0, 3.0, 3.0, 2.0]]), 2).ids_NK
    tensor([[1, 2]])
    """
    op = "topk_logits"
    check_logits(op, logits_NV)
    checked = check_temperatures(op, temperatures)
    limit = check_vocabulary_limit(op, valid_vocab, logits_NV.shape[1])
    check_k(op, k, limit)
    unfit = {**cuda_library.too_many(k), **too_many_for_triton(k)}
    chosen = select(op, impl, logits_NV.device.type, logits_NV.dtype, unfit=unfit)
    ids_NK, top_NK, tail_NT = topk_logits_op(logits_NV.detach(), k, list(checked), limit, chosen)
    return TopK(ids_NK, top_NK, tail_NT, checked)


def linear_topk_logits(
    hidden_ND: HiddenND,
    weight_VD: WeightVD,
    k: int,
    *,
    temperatures: Sequence[float] = (1.0,),
    bias: BiasV | None = None,
    softcap: float | None = None,
    logit_scale: float = 1.0,
    valid_vocab: int | None = None,
    impl: Impl = "auto",
) -> TopK:
    """`topk_logits` of `softcap * tanh(logit_scale * (h W^T + b) / softcap)`, never holding [N, V].

    Args:
        hidden_ND: [N, D] floating point.
        weight_VD: [V, D] floating point, the head's weight.
        k, temperatures, valid_vocab, impl: as in `topk_logits`.
        bias, softcap, logit_scale: as in `linear_support_logits`.

    Returns and raises as `topk_logits`.

    >>> import torch
    >>> from distill_core import ops
    >>> ops.linear_topk_logits(torch.ones(1, 2), torch.eye(3, 2), 1).logits_NK
    tensor([[1.]])
    """
    op = "linear_topk_logits"
    check_head(op, hidden_ND, weight_VD, bias, softcap, logit_scale)
    checked = check_temperatures(op, temperatures)
    limit = check_vocabulary_limit(op, valid_vocab, weight_VD.shape[0])
    check_k(op, k, limit)
    dtypes = (hidden_ND.dtype, weight_VD.dtype)
    unfit = {**cuda_library.too_many(k), **too_many_for_triton(k)}
    chosen = select(op, impl, hidden_ND.device.type, *dtypes, unfit=unfit)
    ids_NK, top_NK, tail_NT = linear_topk_logits_op(
        hidden_ND.detach(),
        weight_VD.detach(),
        None if bias is None else bias.detach(),
        k,
        list(checked),
        softcap,
        float(logit_scale),
        limit,
        chosen,
    )
    return TopK(ids_NK, top_NK, tail_NT, checked)
