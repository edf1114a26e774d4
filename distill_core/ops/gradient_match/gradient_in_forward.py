"""The schedule with the gradient in the forward pass: both lists are read once.

For rows, and for distances without groups, a row's gradient can be written while the row is still in cache. The forward
pass then holds the gradient, and the first backward pass hands it out. A further backward pass and a second derivative
(`create_graph=True`) take the registered backward op, which reads both lists again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .ops import gradient_match_backward_op, gradient_match_with_gradient_op, views
from .reference import Rule

_PLAIN = {torch.Tensor, torch.nn.Parameter}


def one_read_is_enough(rule: Rule) -> bool:
    """Whether no row has to wait for another one's numbers."""
    return rule.distance != "cosine" or rule.group == "row"


def wanted(synthetic: Sequence[Tensor], rule: Rule, impl: str) -> bool:
    """Whether this call takes the schedule: eagerly, by a kernel, for plain tensors that all want their gradient.

    A compiler sees the registered ops, whose schedule does not depend on what is asked of the result.
    """
    return (
        impl == "cpu"
        and one_read_is_enough(rule)
        and torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
        and all(x.requires_grad and type(x) in _PLAIN for x in synthetic)
    )


class MatchInForward(torch.autograd.Function):
    """Forward: value and gradient. Backward: hands the gradient out, scaled in place unless the upstream is 1."""

    @staticmethod
    def forward(
        ctx: Any, real: list[Tensor], weights: list[float], rule: Rule, impl: str, *synthetic: Tensor
    ) -> Tensor:
        ctx.options = (weights, *rule, impl)
        value: Tensor
        value, statistics, ctx.gradient = gradient_match_with_gradient_op(list(synthetic), real, *ctx.options)
        ctx.save_for_backward(statistics, *synthetic, *real)
        ctx.shapes = [x.shape for x in synthetic]
        return value

    @staticmethod
    def backward(ctx: Any, *upstreams: Tensor) -> Any:
        (upstream,) = upstreams
        flat, ctx.gradient = ctx.gradient, None
        one = upstream.item() == 1.0 if flat is not None and not torch.is_grad_enabled() else False
        # 16-bit gradients are taken again rather than scaled: they would be rounded twice, and may be subnormal.
        if flat is None or torch.is_grad_enabled() or not (one or flat.dtype == torch.float32):
            statistics, *both = ctx.saved_tensors
            half = len(both) // 2
            flat = gradient_match_backward_op(upstream, both[:half], both[half:], statistics, *ctx.options)
        elif not one:
            flat.mul_(upstream)
        return (None, None, None, None, *views(flat, ctx.shapes))
