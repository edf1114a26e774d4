"""Registration of `distill_core::linear_support_logits`, its backward and its double backward.

Legend: N rows, V vocabulary, D hidden, K support, T temperatures.

Python owns the schema. The backward op takes the tails as a hint that saves a pass; it is a function of hidden states,
weight and cotangents alone, so its own derivative with respect to the hint is none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..arguments import check_id_values, check_label_values
from ..autocast import exact_arithmetic
from ..head import Head, compute_dtype
from .chunked import LinearSource, Request, empty_statistics, forward, linear_backward
from .second_order import linear_double_backward
from .tile import Cotangents

NAME = "linear_support_logits"
_HEAD = "Tensor hidden, Tensor weight, Tensor? bias, Tensor ids, Tensor? labels"
_OPTIONS = "float[] temperatures, float? softcap, float logit_scale, bool mean, bool entropy, bool top1, str impl"
_COTANGENTS = "Tensor support_grad, Tensor tail_grad, Tensor? label_grad, Tensor? mean_grad, Tensor? entropy_grad"


def extras_of(mean: bool, entropy: bool, top1: bool) -> tuple[str, ...]:
    """The names behind the three flags of the schema."""
    return tuple(n for n, wanted in (("mean", mean), ("entropy", entropy), ("top1", top1)) if wanted)


def _parts(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    ids: Tensor,
    labels: Tensor | None,
    temperatures: Sequence[float],
    softcap: float | None,
    logit_scale: float,
    mean: bool,
    entropy: bool,
    top1: bool,
    impl: str,
) -> tuple[LinearSource, Request]:
    head = Head(weight, bias, softcap, logit_scale, compute_dtype(hidden, weight), impl)
    request = Request(ids, labels, temperatures, extras_of(mean, entropy, top1), softcap, logit_scale, impl)
    return LinearSource(hidden, head), request


@torch.library.custom_op(
    f"distill_core::{NAME}",
    mutates_args=(),
    schema=f"({_HEAD}, {_OPTIONS}) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
)
def linear_support_logits_op(hidden: Tensor, weight: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    """Statistics of all rows, chunk by chunk."""
    source, request = _parts(hidden, weight, *rest)
    check_id_values(NAME, request.ids_NK, source.vocabulary)
    if request.labels_N is not None:
        check_label_values(NAME, request.labels_N, source.vocabulary)
    with exact_arithmetic(hidden):
        return tuple(forward(source, request))


@linear_support_logits_op.register_fake
def _(hidden: Tensor, weight: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    return tuple(empty_statistics(*_parts(hidden, weight, *rest)))


@torch.library.custom_op(
    f"distill_core::{NAME}_backward",
    mutates_args=(),
    schema=f"({_HEAD}, Tensor tail, {_COTANGENTS}, {_OPTIONS}, bool need_hidden, bool need_weight, bool need_bias)"
    " -> (Tensor, Tensor, Tensor)",
)
def linear_support_logits_backward_op(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, ids: Tensor, labels: Tensor | None, tail: Tensor, *rest: Any
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of hidden, weight and bias, chunk by chunk."""
    source, request = _parts(hidden, weight, bias, ids, labels, *rest[5:12])
    with exact_arithmetic(hidden):
        return linear_backward(source, request, tail, Cotangents(*rest[:5]), rest[12:])


@linear_support_logits_backward_op.register_fake
def _(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, ids: Tensor, labels: Tensor | None, tail: Tensor, *rest: Any
) -> tuple[Tensor, Tensor, Tensor]:
    need_hidden, need_weight, need_bias = rest[12:]
    bias_dtype = hidden.dtype if bias is None else bias.dtype
    return (
        torch.empty_like(hidden) if need_hidden else hidden.new_empty(0),
        torch.empty_like(weight) if need_weight else weight.new_empty(0),
        hidden.new_empty(weight.shape[0] if need_bias else 0, dtype=bias_dtype),
    )


@torch.library.custom_op(
    f"distill_core::{NAME}_double_backward",
    mutates_args=(),
    schema=f"({_HEAD}, {_COTANGENTS}, {_OPTIONS}, Tensor? hidden_grad_grad, Tensor? weight_grad_grad,"
    " Tensor? bias_grad_grad) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
)
def linear_support_logits_double_backward_op(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, ids: Tensor, labels: Tensor | None, *rest: Any
) -> tuple[Tensor, ...]:
    """Gradients of hidden, weight, bias and cotangents of the gradient."""
    source, request = _parts(hidden, weight, bias, ids, labels, *rest[5:12])
    with exact_arithmetic(hidden):
        dhidden, dweight, dbias, dcotangents = linear_double_backward(
            source, request, Cotangents(*rest[:5]), *rest[12:]
        )
    return dhidden, dweight, dbias, *dcotangents


@linear_support_logits_double_backward_op.register_fake
def _(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, ids: Tensor, labels: Tensor | None, *rest: Any
) -> tuple[Tensor, ...]:
    dtype = compute_dtype(hidden, weight)
    given = [hidden.new_empty(0, dtype=dtype) if c is None else torch.empty_like(c) for c in rest[:5]]
    bias_dtype = dtype if bias is None else bias.dtype
    dbias = hidden.new_empty(weight.shape[0], dtype=bias_dtype)
    return torch.empty_like(hidden), torch.empty_like(weight), dbias, *given


def _save_for_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    hidden, weight, bias, ids, labels, *options = inputs
    ctx.save_for_backward(hidden, weight, bias, ids, labels, output[1])
    ctx.options = options


def _backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
    hidden, weight, bias, ids, labels, tail = ctx.saved_tensors
    support, tails, label, mean, entropy, _top1 = grads
    wants_mean, wants_entropy = ctx.options[3], ctx.options[4]
    needs = [bool(need) for need in ctx.needs_input_grad[:3]]
    out = linear_support_logits_backward_op(
        hidden,
        weight,
        bias,
        ids,
        labels,
        tail,
        support,
        tails,
        label if labels is not None else None,
        mean if wants_mean else None,
        entropy if wants_entropy else None,
        *ctx.options,
        *needs,
    )
    return (*(g if need else None for g, need in zip(out, needs, strict=True)), *[None] * (len(ctx.options) + 2))


def _save_for_double_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    hidden, weight, bias, ids, labels, _tail, *rest = inputs
    ctx.save_for_backward(hidden, weight, bias, ids, labels, *rest[:5])
    ctx.options, ctx.needs = rest[5:12], rest[12:]


def _double_backward(ctx: Any, *grad_grads: Tensor) -> tuple[Any, ...]:
    hidden, weight, bias, ids, labels, *cotangents = ctx.saved_tensors
    given = [g if need else None for g, need in zip(grad_grads, ctx.needs, strict=True)]
    dhidden, dweight, dbias, *dcotangents = linear_support_logits_double_backward_op(
        hidden, weight, bias, ids, labels, *cotangents, *ctx.options, *given
    )
    dgiven = [None if c is None else d for c, d in zip(cotangents, dcotangents, strict=True)]
    return dhidden, dweight, None if bias is None else dbias, None, None, None, *dgiven, *[None] * 10


linear_support_logits_op.register_autograd(_backward, setup_context=_save_for_backward)
linear_support_logits_backward_op.register_autograd(_double_backward, setup_context=_save_for_double_backward)
