"""The autograd node of `sparse_distill_loss`: hands out gradients that the forward pass took; once differentiable."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..support_logits.chunked import LinearSource, Request
from .gradient_in_forward import Needs, walk
from .reference import LossFn

SECOND_BACKWARD = (
    "sparse_distill_loss took its gradient in the forward pass and has handed it out: it can be differentiated once, "
    "with one backward. For a second one call it again; for second derivatives use linear_support_logits"
)


class _NoSecondDerivative(torch.autograd.Function):
    """Identity on a stored gradient, tied to the inputs it depends on: differentiating it by any of them raises."""

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, *inputs: Tensor | None) -> Tensor:
        return gradient.view_as(gradient)

    @staticmethod
    def backward(ctx: Any, *_: Any) -> Any:
        raise RuntimeError(SECOND_BACKWARD)


def scaled_in_place(gradients: Sequence[Tensor | None], upstream: Tensor) -> list[Tensor | None]:
    """The stored gradients times the upstream scalar, with no temporary of their size; untouched if it is 1."""
    # Reading the scalar back would stall a GPU; there the multiplication is cheaper.
    if upstream.is_cuda or upstream.item() != 1.0:
        for g in gradients:
            if g is not None:
                g.mul_(upstream.to(g.dtype) if g.dtype == torch.float64 else upstream)
    return list(gradients)


class SparseDistill(torch.autograd.Function):
    """Forward: loss and all gradients. Backward: scale and return them."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor | None,
        plan: tuple[LinearSource, Request, LossFn, bool, int | None],
        *params: Tensor,
    ) -> Tensor:
        source, request, loss_fn, with_gradient, rows_per_chunk = plan
        need = [bool(x) and with_gradient for x in ctx.needs_input_grad]
        needs = Needs(with_gradient, need[0], need[1], need[2], tuple(need[4:]))
        totals = walk(source, request, loss_fn, params, needs, rows_per_chunk)
        ctx.save_for_backward(hidden_ND, weight_VD, bias_V, *params)
        ctx.gradients = [totals.hidden_ND, totals.weight_VD, totals.bias_V, *totals.params]
        return totals.loss.to(source.dtype)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> Any:
        gradients, ctx.gradients = ctx.gradients, None
        if gradients is None:
            raise RuntimeError(SECOND_BACKWARD)
        with torch.no_grad():
            handed = scaled_in_place(gradients, upstream[0].detach())
        if torch.is_grad_enabled():
            inputs = (*ctx.saved_tensors, upstream[0])
            tie = _NoSecondDerivative.apply
            handed = [None if g is None else tie(g, *inputs) for g in handed]  # type: ignore[no-untyped-call]
        return (*handed[:3], None, *handed[3:])
