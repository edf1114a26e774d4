"""`linear_sparse_kl` for scalar reductions: gradients taken in the forward pass, recomputed for `create_graph`.

A plain backward hands out the gradients that the forward pass took; a second one over a retained graph takes them
again.
With `create_graph=True` the loss is rebuilt on `linear_support_logits`, which is twice differentiable.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..sparse_distill_loss.gradient_in_forward import Needs, walk
from ..sparse_distill_loss.once import scaled_in_place
from ..sparse_distill_loss.reference import LossFn
from ..support_logits.chunked import LinearSource, Request

Rebuild = Callable[[Tensor, Tensor, Tensor | None], Tensor]


class LinearSparseKL(torch.autograd.Function):
    """Forward: value and gradients. Backward: the stored gradients, or the rebuilt loss's."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor | None,
        plan: tuple[LinearSource, Request, LossFn, bool],
        rebuild: Rebuild,
    ) -> Tensor:
        source, request, loss_fn, with_gradient = plan
        ctx.plan, ctx.rebuild = plan, rebuild
        hidden, weight, bias = (bool(need) and with_gradient for need in ctx.needs_input_grad[:3])
        ctx.needs = Needs(with_gradient, hidden, weight, bias)
        totals = walk(source, request, loss_fn, (), ctx.needs, None)
        ctx.gradients = [totals.hidden_ND, totals.weight_VD, totals.bias_V]
        ctx.save_for_backward(hidden_ND, weight_VD, bias_V)
        return totals.loss.to(source.dtype)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> Any:
        inputs = ctx.saved_tensors
        if torch.is_grad_enabled():
            wanted = [x for x, need in zip(inputs, ctx.needs_input_grad, strict=False) if need]
            grads = iter(torch.autograd.grad(ctx.rebuild(*inputs), wanted, upstream[0], create_graph=True))
            return (*(next(grads) if need else None for need in ctx.needs_input_grad[:3]), None, None)
        gradients, ctx.gradients = ctx.gradients, None
        if gradients is None:
            source, request, loss_fn, _ = ctx.plan
            totals = walk(source, request, loss_fn, (), ctx.needs, None)
            gradients = [totals.hidden_ND, totals.weight_VD, totals.bias_V]
        return (*scaled_in_place(gradients, upstream[0]), None, None)
