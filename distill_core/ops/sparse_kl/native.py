"""`sparse_kl` on logits by a kernel, C++ or Triton: value and gradient of each row in one call.

Legend: N rows, V vocabulary, K support.

`distill_core::sparse_kl_rows` is registered: losses per row and the gradient of `share * sum`. `FusedSparseKL` is
its autograd node: a plain backward hands out the stored gradient, scaled in place; a second one over a retained graph,
and a 16-bit gradient whose upstream is not 1, takes it (again) with the upstream inside; with `create_graph=True` the
loss is rebuilt on `support_logits`, which is twice differentiable.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .. import cpu_library
from ..arguments import check_id_values
from ..buffers import with_rows
from ..dispatch import offer
from ..support_logits.native import support_of
from .reference import MODES

NAME = "sparse_kl"

offer(NAME, "cpu", cpu_library.available, dtypes=cpu_library.DTYPES)
cpu_library.define(
    "sparse_kl_rows(Tensor logits, Tensor ids, Tensor logp, Tensor? tail_logp, int mode, bool reverse,"
    " float temperature, float share, Tensor? upstream, Tensor(a!) loss, Tensor(b!)? gradient) -> ()"
)
_SCHEMA = (
    "(Tensor logits, Tensor ids, Tensor logp, Tensor? tail_logp, str mode, bool reverse, float temperature,"
    " float share, Tensor? upstream, bool need_gradient, str impl) -> (Tensor, Tensor)"
)


def _results(logits: Tensor, need_gradient: bool) -> tuple[Tensor, Tensor]:
    n = logits.shape[0]
    gradient = logits.new_empty(logits.shape) if need_gradient else logits.new_empty(0)
    return logits.new_empty(n, dtype=torch.float64), gradient


@torch.library.custom_op(f"distill_core::{NAME}_rows", mutates_args=(), schema=_SCHEMA)
def sparse_kl_rows_op(
    logits: Tensor,
    ids: Tensor,
    logp: Tensor,
    tail_logp: Tensor | None,
    mode: str,
    reverse: bool,
    temperature: float,
    share: float,
    upstream: Tensor | None,
    need_gradient: bool,
    impl: str,
) -> tuple[Tensor, Tensor]:
    """Losses [N] in fp64; gradient of `share * sum(upstream * losses)`, as the logits are, rounded once (or empty)."""
    check_id_values(NAME, ids, logits.shape[1])
    loss_N, gradient_NV = _results(logits, need_gradient)
    fill: Callable[..., None] = torch.ops.distill_core_cpu.sparse_kl_rows
    if impl == "triton":
        from . import triton

        fill = triton.rows_into
    fill(
        with_rows(logits),
        support_of(ids, None).ids_NK,
        logp.double().contiguous(),
        None if tail_logp is None else tail_logp.double().contiguous(),
        MODES.index(mode),
        reverse,
        temperature,
        share,
        None if upstream is None else upstream.double().contiguous(),
        loss_N,
        gradient_NV if need_gradient else None,
    )
    return loss_N, gradient_NV


@sparse_kl_rows_op.register_fake
def _(logits: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    return _results(logits, rest[-2])


class FusedSparseKL(torch.autograd.Function):
    """Forward: losses per row and the gradient of their sum times `share`."""

    @staticmethod
    def forward(
        ctx: Any,
        logits_NV: Tensor,
        teacher: tuple[Any, ...],
        reduction: str,
        with_gradient: bool,
        rebuild: Callable[[Tensor], Tensor],
        impl: str,
    ) -> Tensor:
        share = 1.0 / max(1, logits_NV.shape[0]) if reduction == "mean" else 1.0
        ctx.arguments, ctx.rebuild, ctx.impl = (*teacher, share), rebuild, impl
        # 16-bit gradients are rounded once, the upstream inside: rows have their own, fp16 underflows without it.
        now = logits_NV.dtype == torch.float32 or (logits_NV.dtype == torch.bfloat16 and reduction != "none")
        need = with_gradient and ctx.needs_input_grad[0] and now
        loss_N, gradient_NV = sparse_kl_rows_op(logits_NV, *ctx.arguments, None, need, impl)
        ctx.gradient = gradient_NV if need else None
        ctx.save_for_backward(logits_NV)
        loss: Tensor = loss_N if reduction == "none" else loss_N.sum() * share
        return loss.float()

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> Any:
        (logits_NV,) = ctx.saved_tensors
        if torch.is_grad_enabled():
            (gradient,) = torch.autograd.grad(ctx.rebuild(logits_NV), logits_NV, upstream[0], create_graph=True)
            return gradient, None, None, None, None, None
        gradient, ctx.gradient = ctx.gradient, None
        scale_N = upstream[0].expand(logits_NV.shape[0])
        ones, wide = bool((upstream[0] == 1).all()), logits_NV.dtype == torch.float32
        if gradient is None or not (wide or ones):
            del gradient  # before its successor is made
            gradient = sparse_kl_rows_op(logits_NV, *ctx.arguments, None if wide else scale_N, True, ctx.impl)[1]
        if wide and not ones:
            gradient.mul_(scale_N[:, None])
        return gradient, None, None, None, None, None
