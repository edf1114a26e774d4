"""Registration of `distill_core::support_logits` (on logits that exist), its backward and its double backward.

Legend: N rows, V vocabulary, K support, T temperatures.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..arguments import check_id_values, check_label_values
from ..head import compute_dtype
from . import native_rows as native
from .chunked import LogitsSource, Request, empty_statistics, forward, logits_backward
from .linear_op import extras_of
from .second_order import logits_double_backward
from .tile import Cotangents

NAME = "support_logits"
_INPUTS = "Tensor logits, Tensor ids, Tensor? labels"
_OPTIONS = "float[] temperatures, bool mean, bool entropy, bool top1, str impl"
_COTANGENTS = "Tensor support_grad, Tensor tail_grad, Tensor? label_grad, Tensor? mean_grad, Tensor? entropy_grad"


def _parts(
    logits: Tensor,
    ids: Tensor,
    labels: Tensor | None,
    temperatures: list[float],
    mean: bool,
    entropy: bool,
    top1: bool,
    impl: str,
) -> tuple[LogitsSource, Request]:
    return LogitsSource(logits), Request(ids, labels, temperatures, extras_of(mean, entropy, top1), impl=impl)


@torch.library.custom_op(
    f"distill_core::{NAME}",
    mutates_args=(),
    schema=f"({_INPUTS}, {_OPTIONS}) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
)
def support_logits_op(logits: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    """Statistics of all rows, chunk by chunk; in C++ row by row, straight from the logits."""
    source, request = _parts(logits, *rest)
    check_id_values(NAME, request.ids_NK, source.vocabulary)
    if request.labels_N is not None:
        check_label_values(NAME, request.labels_N, source.vocabulary)
    if request.impl == "cpu":
        return tuple(native.logits_forward(source, request))
    return tuple(forward(source, request))


@support_logits_op.register_fake
def _(logits: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    return tuple(empty_statistics(*_parts(logits, *rest)))


@torch.library.custom_op(
    f"distill_core::{NAME}_backward",
    mutates_args=(),
    schema=f"({_INPUTS}, Tensor tail, {_COTANGENTS}, {_OPTIONS}) -> Tensor",
)
def support_logits_backward_op(logits: Tensor, ids: Tensor, labels: Tensor | None, tail: Tensor, *rest: Any) -> Tensor:
    """Gradient of the logits, chunk by chunk; in C++ row by row."""
    source, request = _parts(logits, ids, labels, *rest[5:])
    if request.impl == "cpu":
        return native.logits_backward(source, request, tail, Cotangents(*rest[:5]))
    return logits_backward(source, request, tail, Cotangents(*rest[:5]))


@support_logits_backward_op.register_fake
def _(logits: Tensor, *rest: Any) -> Tensor:
    return torch.empty_like(logits, memory_format=torch.contiguous_format)


@torch.library.custom_op(
    f"distill_core::{NAME}_double_backward",
    mutates_args=(),
    schema=f"({_INPUTS}, {_COTANGENTS}, {_OPTIONS}, Tensor logits_grad_grad)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
)
def support_logits_double_backward_op(
    logits: Tensor, ids: Tensor, labels: Tensor | None, *rest: Any
) -> tuple[Tensor, ...]:
    """Gradients of logits and cotangents of the gradient."""
    source, request = _parts(logits, ids, labels, *rest[5:10])
    dlogits, dcotangents = logits_double_backward(source, request, Cotangents(*rest[:5]), rest[10])
    return dlogits, *dcotangents


@support_logits_double_backward_op.register_fake
def _(logits: Tensor, ids: Tensor, labels: Tensor | None, *rest: Any) -> tuple[Tensor, ...]:
    dtype = compute_dtype(logits)
    given = [logits.new_empty(0, dtype=dtype) if c is None else torch.empty_like(c) for c in rest[:5]]
    return torch.empty_like(logits, memory_format=torch.contiguous_format), *given


def _save_for_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    logits, ids, labels, *options = inputs
    ctx.save_for_backward(logits, ids, labels, output[1])
    ctx.options = options


def _backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
    logits, ids, labels, tail = ctx.saved_tensors
    support, tails, label, mean, entropy, _top1 = grads
    dlogits = support_logits_backward_op(
        logits,
        ids,
        labels,
        tail,
        support,
        tails,
        label if labels is not None else None,
        mean if ctx.options[1] else None,
        entropy if ctx.options[2] else None,
        *ctx.options,
    )
    return dlogits, *[None] * 7


def _save_for_double_backward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    logits, ids, labels, _tail, *rest = inputs
    ctx.save_for_backward(logits, ids, labels, *rest[:5])
    ctx.options = rest[5:]


def _double_backward(ctx: Any, grad_grad: Tensor) -> tuple[Any, ...]:
    logits, ids, labels, *cotangents = ctx.saved_tensors
    dlogits, *dcotangents = support_logits_double_backward_op(logits, ids, labels, *cotangents, *ctx.options, grad_grad)
    dgiven = [None if c is None else d for c, d in zip(cotangents, dcotangents, strict=True)]
    return dlogits, None, None, None, *dgiven, *[None] * 5


support_logits_op.register_autograd(_backward, setup_context=_save_for_backward)
support_logits_backward_op.register_autograd(_double_backward, setup_context=_save_for_double_backward)
