"""KL to a sparse teacher, from logits or fused with the head.

Legend: N rows, V vocabulary, D hidden, K support.
"""

from __future__ import annotations

from typing import Literal, cast

import torch
from torch import Tensor

from ...shapes import BiasV, HiddenND, IdsNK, LogitsNV, LogProbsNK, LossScalarOrN, RowN, WeightVD
from .. import cpu_library
from ..arguments import (
    check_choice,
    check_device,
    check_head,
    check_id_values,
    check_ids,
    check_logits,
    check_matrix,
    check_row_vector,
    check_temperature,
)
from ..dispatch import Impl, declare, offer, select
from ..head import Head, compute_dtype
from ..support_logits import SupportLogits, linear_support_logits, support_logits
from ..support_logits.chunked import LinearSource, Request
from ..transforms import refuse_transforms, transformed
from ..triton_probe import offer_kernels, too_wide
from .linear import LinearSparseKL
from .native import FusedSparseKL
from .reference import MODES, REVERSIBLE, row_divergence

__all__ = ["linear_sparse_kl", "sparse_kl"]

Mode = Literal["tail", "truncated", "renormalized", "renormalized-both", "weights"]
Direction = Literal["forward", "reverse"]
Reduction = Literal["mean", "sum", "none"]

ROUNDING_NAT = 1e-3  # a log-probability may exceed 0 by what 16-bit formats round

declare("sparse_kl")
declare("linear_sparse_kl")
offer("linear_sparse_kl", "cpu", cpu_library.available, dtypes=cpu_library.DTYPES)
offer_kernels("sparse_kl", "linear_sparse_kl")


def _check_teacher(
    op: str, first_NX: Tensor, ids_NK: Tensor, logp_NK: Tensor, tail_logp_N: Tensor | None, mode: str, direction: str
) -> None:
    check_ids(op, ids_NK, first_NX)
    check_matrix(op, "logp_NK", logp_NK)
    check_device(op, "logp_NK", logp_NK, first_NX)
    if logp_NK.shape != ids_NK.shape:
        raise ValueError(
            f"{op}: logp_NK must have the shape of ids_NK, {list(ids_NK.shape)}; got {list(logp_NK.shape)}"
        )
    if tail_logp_N is not None:
        check_row_vector(op, "tail_logp_N", tail_logp_N, first_NX, integer=False)
    for name, x in (("logp_NK", logp_NK), ("tail_logp_N", tail_logp_N)):
        if x is not None and x.requires_grad:
            raise ValueError(f"{op}: {name} is the teacher's and gets no gradient, but requires grad; detach it")
    check_choice(op, "mode", mode, MODES)
    check_choice(op, "direction", direction, ("forward", "reverse"))
    if direction == "reverse" and mode not in REVERSIBLE:
        raise ValueError(
            f'{op}: direction="reverse" is defined for the modes {" and ".join(REVERSIBLE)}; mode="{mode}" leaves '
            f"student mass without a teacher to compare with"
        )
    known = not (torch.compiler.is_compiling() or transformed() or first_NX.is_meta)
    if known and mode != "weights":
        _check_log_probabilities(op, "logp_NK", logp_NK.masked_fill(ids_NK < 0, 0.0))
        if tail_logp_N is not None and mode == "tail":
            _check_log_probabilities(op, "tail_logp_N", tail_logp_N)


def _check_log_probabilities(op: str, name: str, x: Tensor) -> None:
    """None above 0: logits, probabilities and a logsumexp in their place are the usual mistake. Reads the data."""
    positive = x > ROUNDING_NAT
    if bool(positive.any()):
        at = positive.nonzero()[0].tolist()
        raise ValueError(
            f"{op}: {name} must hold log-probabilities, which are at most 0; {name}{at} is {float(x[tuple(at)]):.6g}; "
            f"`TopK.log_probs(temperature)` makes them of logits and their tail, `.log()` of probabilities"
        )


def _reduce(loss_N: Tensor, reduction: str) -> Tensor:
    if reduction == "none":
        return loss_N
    return loss_N.sum() if reduction == "sum" else loss_N.sum() / max(1, loss_N.shape[0])


def sparse_kl(
    logits_NV: LogitsNV,
    ids_NK: IdsNK,
    logp_NK: LogProbsNK,
    *,
    tail_logp_N: RowN | None = None,
    mode: Mode = "tail",
    direction: Direction = "forward",
    temperature: float = 1.0,
    reduction: Reduction = "mean",
    impl: Impl = "auto",
) -> LossScalarOrN:
    """KL divergence between a sparse teacher and the student `softmax(logits / temperature)`, twice differentiable.

    `tail`: `sum p (log p - log q) + t (log t - log qbar)`, the KL on the k + 1 simplex, a lower bound of the dense KL
    (data-processing inequality) and equal to it at K = V. `truncated` leaves the tail out (can be negative),
    `renormalized` divides the teacher by its sum, `renormalized-both` the student too, `weights` takes log-weights of a
    sampled teacher (arXiv 2503.16870): `sum w (log w - log q)`. No hidden factor temperature^2.

    Args:
        logits_NV: [N, V] floating point.
        ids_NK: [N, K] int32 or int64, unique in a row, -1 pads.
        logp_NK: [N, K] teacher log-probabilities in nat at `temperature`; -inf allowed, above 0 refused; no gradient.
        tail_logp_N: [N] teacher's tail log-probability (`TopK.log_probs`), read by mode "tail". Default None:
            `log(1 - sum p)`, summed in fp64 and clamped at probability 0.
        mode: "tail" (default), "truncated", "renormalized", "renormalized-both" or "weights".
        direction: "forward" KL(p || q) (default), or "reverse" KL(q || p) for "tail" and "renormalized-both".
        temperature: positive number. Default 1.
        reduction: "mean" over N (default; 0 for N = 0), "sum" or "none".
        impl: "auto", "reference", "cpu", "triton" or "cuda".

    Returns fp32 (fp64 for fp64 logits): a scalar, or [N] for "none". +inf where p > 0 and q = 0 (reverse: q > 0 and
    p = 0); NaN where an input is NaN, and nowhere else. Raises `ValueError` or `TypeError` for wrong arguments.

    >>> import torch
    >>> from distill_core import ops
    >>> loss = ops.sparse_kl(torch.zeros(1, 4), torch.tensor([[2]]), torch.tensor([[0.25]]).log())
    >>> bool(loss.abs() < 1e-6)  # the student equals the teacher
    True
    """
    op = "sparse_kl"
    check_logits(op, logits_NV)
    refuse_transforms(op, [logits_NV])
    _check_teacher(op, logits_NV, ids_NK, logp_NK, tail_logp_N, mode, direction)
    check_choice(op, "reduction", reduction, ("mean", "sum", "none"))
    t = check_temperature(op, temperature)
    unfit = too_wide(ids_NK.shape[1])
    chosen = select(op, impl, logits_NV.device.type, logits_NV.dtype, unfit=unfit)

    def rebuild(logits: Tensor) -> Tensor:
        support = support_logits(logits, ids_NK, temperatures=(t,), impl=cast(Impl, chosen))
        return _reduce(row_divergence(support, logp_NK, tail_logp_N, mode, direction, t, logits.shape[1]), reduction)

    if chosen == "reference" or torch.compiler.is_compiling() or transformed():
        return rebuild(logits_NV)
    teacher = (ids_NK, logp_NK, tail_logp_N, mode, direction == "reverse", t)
    plan = (teacher, reduction, torch.is_grad_enabled(), rebuild, chosen)
    loss: Tensor = FusedSparseKL.apply(logits_NV, *plan)  # type: ignore[no-untyped-call]
    return loss


def linear_sparse_kl(
    hidden_ND: HiddenND,
    weight_VD: WeightVD,
    ids_NK: IdsNK,
    logp_NK: LogProbsNK,
    *,
    tail_logp_N: RowN | None = None,
    mode: Mode = "tail",
    direction: Direction = "forward",
    temperature: float = 1.0,
    reduction: Reduction = "mean",
    bias: BiasV | None = None,
    softcap: float | None = None,
    logit_scale: float = 1.0,
    impl: Impl = "auto",
) -> LossScalarOrN:
    """`sparse_kl` of `softcap * tanh(logit_scale * (h W^T + b) / softcap)`, never holding [N, V]; twice differentiable.

    "mean" and "sum" take the gradient in the forward pass (three matrix products); "none", a backward with
    `create_graph=True` and torch.compile recompute it (four).

    Args:
        hidden_ND: [N, D] floating point.
        weight_VD: [V, D] floating point, the head's weight.
        ids_NK, logp_NK, tail_logp_N, mode, direction, temperature, reduction, impl: as in `sparse_kl`.
        bias, softcap, logit_scale: as in `linear_support_logits`.

    Returns and raises as `sparse_kl`.

    >>> import torch
    >>> from distill_core import ops
    >>> ids, logp = torch.tensor([[2]]), torch.tensor([[0.25]]).log()
    >>> loss = ops.linear_sparse_kl(torch.ones(1, 2), torch.zeros(4, 2), ids, logp)
    >>> bool(loss.abs() < 1e-6)  # the student equals the teacher
    True
    """
    op = "linear_sparse_kl"
    check_head(op, hidden_ND, weight_VD, bias, softcap, logit_scale)
    refuse_transforms(op, [hidden_ND, weight_VD, bias])
    _check_teacher(op, hidden_ND, ids_NK, logp_NK, tail_logp_N, mode, direction)
    check_choice(op, "reduction", reduction, ("mean", "sum", "none"))
    t = check_temperature(op, temperature)
    chosen = select(op, impl, hidden_ND.device.type, hidden_ND.dtype, weight_VD.dtype)
    vocabulary = weight_VD.shape[0]

    def rebuild(hidden: Tensor, weight: Tensor, bias_V: Tensor | None) -> Tensor:
        support = linear_support_logits(
            hidden,
            weight,
            ids_NK,
            bias=bias_V,
            temperatures=(t,),
            softcap=softcap,
            logit_scale=logit_scale,
            impl=chosen,  # type: ignore[arg-type]
        )
        return _reduce(row_divergence(support, logp_NK, tail_logp_N, mode, direction, t, vocabulary), reduction)

    if reduction == "none" or torch.compiler.is_compiling() or transformed():
        return rebuild(hidden_ND, weight_VD, bias)
    check_id_values(op, ids_NK, vocabulary)
    share = 1.0 / max(1, hidden_ND.shape[0]) if reduction == "mean" else 1.0

    def loss_fn(support: SupportLogits, rows: slice) -> Tensor:
        tail_n = None if tail_logp_N is None else tail_logp_N[rows]
        return row_divergence(support, logp_NK[rows], tail_n, mode, direction, t, vocabulary) * share

    head = Head(
        weight_VD.detach(),
        None if bias is None else bias.detach(),
        softcap,
        float(logit_scale),
        compute_dtype(hidden_ND, weight_VD),
        chosen,
    )
    source = LinearSource(hidden_ND.detach(), head)
    request = Request(ids_NK, None, (t,), (), softcap, float(logit_scale), chosen)
    plan = (source, request, loss_fn, torch.is_grad_enabled())
    loss: Tensor = LinearSparseKL.apply(hidden_ND, weight_VD, bias, plan, rebuild)  # type: ignore[no-untyped-call]
    return loss
