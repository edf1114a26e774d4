"""The distance between two gradients, and its derivative by the images: a derivative of second order, in three ways.

Legend: B images, L parameters; theta parameters, X images, L(theta, X) the synthetic loss, g its gradient by theta,
r the real gradient, D(g, r) the distance, v = dD/dg.

    dD/dX = d/dX <v, g(theta, X)>, v held fixed          (chain rule: D depends on X through g alone)

double-backward         builds the graph of g and goes back through it
central-difference      (dL/dX at theta + e v  -  dL/dX at theta - e v) / (2 e): DARTS' (arXiv 1806.09055, eq. 8)
forward-over-reverse    the forward derivative of dL/dX by theta along v (Pearlmutter 1994)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from distill_core import ops

Loss = Callable[[Sequence[Tensor], Tensor], Tensor]
"""(parameters, images [B, C, H, W]) -> mean loss, a scalar."""

Mode = Literal["double-backward", "central-difference", "forward-over-reverse"]

CENTRAL_STEP = 1e-5
"""Length of e v, in units of a parameter. The two passes run in fp64: a network of ReLUs has kinks, and each kink
between the ends is an error that does not shrink with e. A step so short meets almost none; fp32 cannot resolve it."""


@dataclass(frozen=True)
class Distance:
    """How gradients are compared: the arguments of ``ops.gradient_match``."""

    distance: Literal["cosine", "l2", "l2+l1"] = "cosine"
    group: Literal["row", "tensor", "global"] = "row"
    eps: float = 1e-6
    eps_mode: Literal["added", "clamp"] = "added"

    def __call__(self, synthetic: Sequence[Tensor], real: Sequence[Tensor]) -> Tensor:
        return ops.gradient_match(
            synthetic, real, distance=self.distance, group=self.group, eps=self.eps, eps_mode=self.eps_mode
        )


def matching_gradient(
    loss: Loss,
    parameters: Sequence[Tensor],
    images_BCHW: Tensor,
    real: Sequence[Tensor],
    distance: Distance,
    mode: Mode,
) -> tuple[Tensor, Tensor]:
    """Value D (scalar) and dD/dX [B, C, H, W], both detached.

    Args:
        loss: twice differentiable.
        parameters: L tensors, where the gradients are taken.
        images_BCHW: X.
        real: L tensors, the gradient on real images; no gradient flows there.
        distance: D.
        mode: see the top of the file. The first and the last are exact up to rounding; the second, in fp64, is off by
            the square of its step and by kinks that it meets, and keeps no graph of second order.
    """
    theta = [p.detach().requires_grad_() for p in parameters]
    images = images_BCHW.detach().requires_grad_()
    if mode == "double-backward":
        gradient = torch.autograd.grad(loss(theta, images), theta, create_graph=True)
        value = distance(gradient, real)
        (by_images,) = torch.autograd.grad(value, images)
        return value.detach(), by_images
    gradient = torch.autograd.grad(loss(theta, images.detach()), theta)
    leaves = [g.requires_grad_() for g in gradient]
    value = distance(leaves, real)
    found = torch.autograd.grad(value, leaves, allow_unused=True)
    direction = [torch.zeros_like(g) if v is None else v for v, g in zip(found, leaves, strict=True)]
    if mode == "central-difference":
        return value.detach(), _central(loss, theta, images, direction)
    return value.detach(), _forward(loss, theta, images, direction)


def _central(loss: Loss, theta: Sequence[Tensor], images: Tensor, direction: Sequence[Tensor]) -> Tensor:
    along = [v.double() for v in direction]
    length = torch.stack([v.square().sum() for v in along]).sum().sqrt()
    if length == 0:
        return torch.zeros_like(images)
    step, wide = CENTRAL_STEP / float(length), images.detach().double().requires_grad_()
    ends = []
    for sign in (1, -1):
        moved = [p.detach().double() + sign * step * v for p, v in zip(theta, along, strict=True)]
        ends.append(torch.autograd.grad(loss(moved, wide), wide)[0])
    return ((ends[0] - ends[1]) / (2 * step)).to(images.dtype)


def _forward(loss: Loss, theta: Sequence[Tensor], images: Tensor, direction: Sequence[Tensor]) -> Tensor:
    def by_images(*at: Tensor) -> Tensor:
        found: Tensor = torch.func.grad(lambda x: loss(at, x))(images.detach())
        return found

    _, along = torch.func.jvp(by_images, tuple(p.detach() for p in theta), tuple(direction))
    result: Tensor = along.detach()
    return result
