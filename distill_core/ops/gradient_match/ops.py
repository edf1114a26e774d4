"""Registration of `distill_core::gradient_match`, its backward and its double backward.

Lists are passed as they are; gradients come back as one flat tensor, split into views by the autograd formula.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..autocast import exact_arithmetic
from ..head import compute_dtype
from ..transforms import values_by_sample
from . import native, reference
from .reference import Rule, statistics_rows

_LISTS = "Tensor[] synthetic, Tensor[] real"
_RULE = "float[] weights, str distance, str group, float eps, str eps_mode, str impl"


@torch.library.custom_op(
    "distill_core::gradient_match", mutates_args=(), schema=f"({_LISTS}, {_RULE}) -> (Tensor, Tensor)"
)
def gradient_match_op(
    synthetic: list[Tensor], real: list[Tensor], weights: list[float], *rest: Any
) -> tuple[Tensor, Tensor]:
    """The distance, and per row what the backward pass needs."""
    *options, impl = rest
    if impl == "cpu":
        return native.forward(synthetic, real, weights, Rule(*options))
    if impl == "cuda":
        from . import cuda

        return cuda.forward(synthetic, real, weights, Rule(*options))
    with exact_arithmetic(synthetic[0]):
        return reference.forward(synthetic, real, weights, Rule(*options))


@gradient_match_op.register_fake
def _(synthetic: list[Tensor], real: list[Tensor], weights: list[float], *rest: Any) -> tuple[Tensor, Tensor]:
    dtype = compute_dtype(*synthetic)
    rows = statistics_rows(synthetic, Rule(*rest[:4]))
    return synthetic[0].new_empty((), dtype=dtype), synthetic[0].new_empty(rows, 3, dtype=dtype)


@torch.library.custom_op(
    "distill_core::gradient_match_with_gradient",
    mutates_args=(),
    schema=f"({_LISTS}, {_RULE}) -> (Tensor, Tensor, Tensor)",
)
def gradient_match_with_gradient_op(
    synthetic: list[Tensor], real: list[Tensor], weights: list[float], *rest: Any
) -> tuple[Tensor, Tensor, Tensor]:
    """What `gradient_match_op` returns, and the gradient of all synthetic tensors in one flat tensor."""
    *options, impl = rest
    rule = Rule(*options)
    if impl == "cpu":
        return native.with_gradient(synthetic, real, weights, rule)
    with exact_arithmetic(synthetic[0]):
        value, statistics = reference.forward(synthetic, real, weights, rule)
        one = torch.ones_like(value)
        return value, statistics, reference.backward(one, synthetic, real, statistics, weights, rule)


@gradient_match_with_gradient_op.register_fake
def _(synthetic: list[Tensor], real: list[Tensor], weights: list[float], *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
    dtype = compute_dtype(*synthetic)
    rows = statistics_rows(synthetic, Rule(*rest[:4]))
    like = synthetic[0]
    flat = like.new_empty(sum(x.numel() for x in synthetic))
    return like.new_empty((), dtype=dtype), like.new_empty(rows, 3, dtype=dtype), flat


@torch.library.custom_op(
    "distill_core::gradient_match_backward",
    mutates_args=(),
    schema=f"(Tensor upstream, {_LISTS}, Tensor statistics, {_RULE}) -> Tensor",
)
def gradient_match_backward_op(
    upstream: Tensor, synthetic: list[Tensor], real: list[Tensor], statistics: Tensor, weights: list[float], *rest: Any
) -> Tensor:
    """Gradient of all synthetic tensors in one flat tensor."""
    *options, impl = rest
    if impl == "cpu":
        return native.backward(upstream, synthetic, real, statistics, weights, Rule(*options))
    if impl == "cuda":
        from . import cuda

        return cuda.backward(upstream, synthetic, real, statistics, weights, Rule(*options))
    with exact_arithmetic(upstream):
        return reference.backward(upstream, synthetic, real, statistics, weights, Rule(*options))


@gradient_match_backward_op.register_fake
def _(upstream: Tensor, synthetic: list[Tensor], *rest: Any) -> Tensor:
    return synthetic[0].new_empty(sum(x.numel() for x in synthetic))


@torch.library.custom_op(
    "distill_core::gradient_match_double_backward",
    mutates_args=(),
    schema=f"(Tensor upstream, {_LISTS}, Tensor cotangent, {_RULE}) -> (Tensor, Tensor)",
)
def gradient_match_double_backward_op(
    upstream: Tensor, synthetic: list[Tensor], real: list[Tensor], cotangent: Tensor, weights: list[float], *rest: Any
) -> tuple[Tensor, Tensor]:
    """Plain torch for every `impl`: it runs in second-order optimisation of a few tensors only."""
    with exact_arithmetic(upstream):
        return reference.double_backward(upstream, synthetic, real, cotangent, weights, Rule(*rest[:4]))


@gradient_match_double_backward_op.register_fake
def _(upstream: Tensor, synthetic: list[Tensor], *rest: Any) -> tuple[Tensor, Tensor]:
    return torch.empty_like(upstream), synthetic[0].new_empty(sum(x.numel() for x in synthetic))


def views(flat: Tensor, shapes: Sequence[torch.Size]) -> list[Tensor]:
    """The pieces of `flat`, one after the other, in these shapes."""
    parts = flat.split_with_sizes([shape.numel() for shape in shapes])
    return [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]


def _like(flat: Tensor, tensors: Sequence[Tensor]) -> list[Tensor]:
    return views(flat, [x.shape for x in tensors])


def _save_for_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    synthetic, real, *ctx.options = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(output[1], *synthetic, *real)


def _backward(ctx: Any, upstream: Tensor, _: Tensor) -> tuple[Any, ...]:
    statistics, *both = ctx.saved_tensors
    half = len(both) // 2
    synthetic, real = both[:half], both[half:]
    flat = gradient_match_backward_op(upstream, synthetic, real, statistics, *ctx.options)
    return _like(flat, synthetic), [None] * half, *[None] * 6


def _save_for_double_backward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    upstream, synthetic, real, _statistics, *ctx.options = inputs
    ctx.save_for_backward(upstream, *synthetic, *real)


def _double_backward(ctx: Any, cotangent: Tensor) -> tuple[Any, ...]:
    upstream, *both = ctx.saved_tensors
    half = len(both) // 2
    synthetic, real = both[:half], both[half:]
    dupstream, flat = gradient_match_double_backward_op(upstream, synthetic, real, cotangent, *ctx.options)
    return dupstream, _like(flat, synthetic), [None] * half, None, *[None] * 6


gradient_match_op.register_autograd(_backward, setup_context=_save_for_backward)
gradient_match_backward_op.register_autograd(_double_backward, setup_context=_save_for_double_backward)
gradient_match_op.register_vmap(values_by_sample("gradient_match", gradient_match_op))
