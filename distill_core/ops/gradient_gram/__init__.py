"""Gram matrix of per-sample gradients of a linear layer."""

from __future__ import annotations

import torch
from torch import Tensor

from ..arguments import check_device
from ..autocast import exact_arithmetic
from ..dispatch import Impl, declare, select
from ..head import compute_dtype
from . import reference

__all__ = ["gradient_gram"]

OP = "gradient_gram"
declare(OP)


@torch.library.custom_op(
    "distill_core::gradient_gram",
    mutates_args=(),
    schema="(Tensor acts_a, Tensor grads_a, Tensor acts_b, Tensor grads_b, str impl) -> Tensor",
)
def gradient_gram_op(acts_a: Tensor, grads_a: Tensor, acts_b: Tensor, grads_b: Tensor, impl: str) -> Tensor:
    """By the cheaper schedule."""
    tensors = (acts_a, grads_a, acts_b, grads_b)
    with exact_arithmetic(acts_a):
        run = reference.ghost if reference.schedule(*tensors) == "ghost" else reference.formed
        return run(*tensors)


@gradient_gram_op.register_fake
def _(acts_a: Tensor, grads_a: Tensor, acts_b: Tensor, grads_b: Tensor, impl: str) -> Tensor:
    return acts_a.new_empty(acts_a.shape[0], acts_b.shape[0], dtype=compute_dtype(acts_a, grads_a, acts_b, grads_b))


def _check_side(side: str, acts: Tensor, grads: Tensor) -> None:
    for name, x in ((f"acts_{side}", acts), (f"grads_{side}", grads)):
        if not isinstance(x, Tensor):
            raise TypeError(f"{OP}: {name} must be a torch.Tensor; got {type(x).__name__}")
        if x.dim() != 3:
            raise ValueError(
                f"{OP}: {name} must be [samples, positions, width]; got {list(x.shape)}; for a layer without positions "
                f"use {name}.unsqueeze(1)"
            )
        if not x.is_floating_point():
            raise TypeError(f"{OP}: {name} must be floating point; got {x.dtype}")
    if acts.shape[:2] != grads.shape[:2]:
        raise ValueError(
            f"{OP}: acts_{side} is {list(acts.shape)} and grads_{side} is {list(grads.shape)}: samples and positions "
            f"must be equal"
        )
    check_device(OP, f"grads_{side}", grads, acts)


def gradient_gram(acts_a: Tensor, grads_a: Tensor, acts_b: Tensor, grads_b: Tensor, *, impl: Impl = "auto") -> Tensor:
    """`<G_r, G_s>` for all pairs of samples, `G = sum over positions of backprop activation^T`. Not differentiable.

    Equal to forming every sample's weight gradient [Dout, Din] and multiplying; or, without forming any, to
    `sum_tu <A_rt, A_su> <B_rt, B_su>` (ghost inner products). The cheaper one by a count of flops runs, in tiles.

    Args:
        acts_a: [Ba, Ta, Din] inputs of the layer, floating point.
        grads_a: [Ba, Ta, Dout] gradients of each sample's own loss with respect to the layer's output. Rows that are
            padding must be zero.
        acts_b: [Bb, Tb, Din]. Tb may differ from Ta.
        grads_b: [Bb, Tb, Dout].
        impl: "auto", "reference", "cpu", "triton" or "cuda".

    Returns [Ba, Bb], fp32 (fp64 if an input is fp64). Raises `ValueError` or `TypeError` for wrong arguments.

    >>> import torch
    >>> from distill_core import ops
    >>> acts, grads = torch.ones(2, 1, 3), torch.tensor([[[1.0]], [[2.0]]])
    >>> ops.gradient_gram(acts, grads, acts, grads)
    tensor([[ 3.,  6.],
            [ 6., 12.]])
    """
    _check_side("a", acts_a, grads_a)
    _check_side("b", acts_b, grads_b)
    if acts_a.shape[2] != acts_b.shape[2] or grads_a.shape[2] != grads_b.shape[2]:
        raise ValueError(
            f"{OP}: both sides must be of one layer: acts_a {list(acts_a.shape)} and acts_b {list(acts_b.shape)}, "
            f"grads_a {list(grads_a.shape)} and grads_b {list(grads_b.shape)} differ in the last dimension"
        )
    check_device(OP, "acts_b", acts_b, acts_a)
    tensors = (acts_a, grads_a, acts_b, grads_b)
    picked = select(OP, impl, acts_a.device.type, *(x.dtype for x in tensors))
    found: Tensor = gradient_gram_op(*(x.detach() for x in tensors), picked)
    return found
