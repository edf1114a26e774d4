"""Support logits: the one primitive behind every sparse divergence.

Legend: N rows, V vocabulary, D hidden, K support, T temperatures.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ...shapes import BiasV, HiddenND, IdsNK, LabelsN, LogitsNV, WeightVD
from .. import cpu_library
from ..arguments import (
    check_device,
    check_extras,
    check_head,
    check_ids,
    check_logits,
    check_row_vector,
    check_temperatures,
)
from ..dispatch import Impl, declare, offer, select
from ..transforms import refuse_transforms
from ..triton_probe import offer_kernels
from .linear_op import linear_support_logits_op
from .logits_op import support_logits_op
from .result import SupportLogits

__all__ = ["SupportLogits", "linear_support_logits", "support_logits"]

declare("support_logits")
declare("linear_support_logits")
offer("linear_support_logits", "cpu", cpu_library.available, dtypes=cpu_library.DTYPES)
offer_kernels("support_logits", "linear_support_logits")


def _result(
    found: Sequence[Tensor],
    ids_NK: Tensor,
    labels_N: Tensor | None,
    temperatures: tuple[float, ...],
    extras: Sequence[str],
) -> SupportLogits:
    support_NK, tail_NT, label_N, mean_N, entropy_NT, top1_N = found
    return SupportLogits(
        ids_NK=ids_NK,
        temperatures=temperatures,
        support_NK=support_NK,
        tail_NT=tail_NT,
        label_N=None if labels_N is None else label_N,
        labels_N=labels_N,
        mean_N=mean_N if "mean" in extras else None,
        entropy_NT=entropy_NT if "entropy" in extras else None,
        top1_N=top1_N if "top1" in extras else None,
    )


def linear_support_logits(
    hidden_ND: HiddenND,
    weight_VD: WeightVD,
    ids_NK: IdsNK,
    *,
    bias: BiasV | None = None,
    labels_N: LabelsN | None = None,
    temperatures: Sequence[float] = (1.0,),
    softcap: float | None = None,
    logit_scale: float = 1.0,
    extras: Sequence[str] = (),
    impl: Impl = "auto",
) -> SupportLogits:
    """Logits on a support and the logsumexp of the rest, from hidden states, never holding [N, V].

    `z = softcap * tanh(logit_scale * (h W^T + b) / softcap)`; `support = z[ids]`,
    `tail_t = logsumexp(z_v / t for v not in ids)`. The tail is summed over the complement, never `1 - sum`. Logits are
    recomputed chunk by chunk in the backward pass; differentiable twice, under torch.compile too (once there).

    Args:
        hidden_ND: [N, D] fp64, fp32, bf16 or fp16.
        weight_VD: [V, D] floating point, the head's weight.
        ids_NK: [N, K] int32 or int64, unique in a row, -1 pads. N = 0 and K = 0 work.
        bias: [V], added before the scale. Default None.
        labels_N: [N] int32 or int64, -100 ignores the row. Default None.
        temperatures: different positive numbers. Default (1.0,).
        softcap: positive number, in logits. Default None (no cap).
        logit_scale: factor on the logits. Default 1.
        extras: any of "mean", "entropy", "top1". Default ().
        impl: "auto", "reference", "cpu", "triton" or "cuda".

    Returns fp32 results (fp64 if hidden or weight is fp64). Raises `ValueError` or `TypeError` for wrong arguments,
    also for an id outside the vocabulary or twice in a row, and `RuntimeError` for an `impl` that cannot run.

    >>> import torch
    >>> from distill_core import ops
    >>> ops.linear_support_logits(torch.zeros(1, 2), torch.zeros(4, 2), torch.tensor([[2]])).log_probs().exp()
    tensor([[0.2500, 0.7500]])
    """
    op = "linear_support_logits"
    check_head(op, hidden_ND, weight_VD, bias, softcap, logit_scale)
    refuse_transforms(op, [hidden_ND, weight_VD, bias])
    check_ids(op, ids_NK, hidden_ND)
    if labels_N is not None:
        check_row_vector(op, "labels_N", labels_N, hidden_ND, integer=True)
    checked = check_temperatures(op, temperatures)
    extras = check_extras(op, extras)
    chosen = select(op, impl, hidden_ND.device.type, hidden_ND.dtype, weight_VD.dtype)
    flags = ("mean" in extras, "entropy" in extras, "top1" in extras)
    found = linear_support_logits_op(
        hidden_ND, weight_VD, bias, ids_NK, labels_N, list(checked), softcap, float(logit_scale), *flags, chosen
    )
    return _result(found, ids_NK, labels_N, checked, extras)


def support_logits(
    logits_NV: LogitsNV,
    ids_NK: IdsNK,
    *,
    labels_N: LabelsN | None = None,
    temperatures: Sequence[float] = (1.0,),
    extras: Sequence[str] = (),
    impl: Impl = "auto",
) -> SupportLogits:
    """Logits on a support and the logsumexp of the rest, from logits that exist; twice differentiable.

    `support = z[ids]`, `tail_t = logsumexp(z_v / t for v not in ids)`.

    Args:
        logits_NV: [N, V] floating point, any strides.
        ids_NK: [N, K] int32 or int64, unique in a row, -1 pads. N = 0 and K = 0 work.
        labels_N: [N] int32 or int64, -100 ignores the row. Default None.
        temperatures: different positive numbers. Default (1.0,).
        extras: any of "mean", "entropy", "top1". Default ().
        impl: "auto", "reference", "cpu", "triton" or "cuda".

    Returns fp32 results (fp64 for fp64 logits). Raises as `linear_support_logits`.

    >>> import torch
    >>> from distill_core import ops
    >>> ops.support_logits(torch.zeros(1, 4), torch.tensor([[2, -1]])).log_probs().exp()
    tensor([[0.2500, 0.0000, 0.7500]])
    """
    op = "support_logits"
    check_logits(op, logits_NV)
    refuse_transforms(op, [logits_NV])
    check_ids(op, ids_NK, logits_NV)
    if labels_N is not None:
        check_row_vector(op, "labels_N", labels_N, logits_NV, integer=True)
        check_device(op, "labels_N", labels_N, logits_NV)
    checked = check_temperatures(op, temperatures)
    extras = check_extras(op, extras)
    chosen = select(op, impl, logits_NV.device.type, logits_NV.dtype)
    flags = ("mean" in extras, "entropy" in extras, "top1" in extras)
    found = support_logits_op(logits_NV, ids_NK, labels_N, list(checked), *flags, chosen)
    return _result(found, ids_NK, labels_N, checked, extras)
