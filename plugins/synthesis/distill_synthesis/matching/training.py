"""Training of a network on few images: the protocol by which synthetic sets are judged, and that of experts.

Legend: N images, C channels, H height, W width, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from distill_synthesis.matching.networks import ConvNet, descend


@dataclass(frozen=True)
class Recipe:
    """SGD with momentum; the rate falls to a tenth after half of the epochs, as in DC's evaluation.

    Args:
        epochs: passes over the images.
        rate: learning rate.
        momentum, weight_decay: of SGD.
        batch: images per step.
    """

    epochs: int = 300
    rate: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 5e-4
    batch: int = 256


@torch.enable_grad()
def train_network(
    net: ConvNet,
    parameters: Sequence[Tensor],
    images_NCHW: Tensor,
    targets: Tensor,
    recipe: Recipe,
    drawing: torch.Generator,
    on_epoch: Callable[[int, list[Tensor]], None] | None = None,
    stop_after: int | None = None,
) -> list[Tensor]:
    """Parameters after training.

    Args:
        net: the network.
        parameters: where it starts.
        images_NCHW: fp32.
        targets: classes [N] int64, or probabilities [N, K].
        recipe: how to train.
        drawing: order of the images.
        on_epoch: called with the number of epochs done and the parameters.
        stop_after: epochs after which it ends early; the rate falls when it would have fallen.
    """
    current = list(parameters)
    velocity = [torch.zeros_like(p) for p in current]
    for epoch in range(recipe.epochs if stop_after is None else stop_after):
        rate = recipe.rate if epoch <= recipe.epochs // 2 else recipe.rate * 0.1
        for batch in torch.randperm(len(images_NCHW), generator=drawing).split(recipe.batch):
            theta = [p.requires_grad_() for p in current]
            loss = functional.cross_entropy(net(theta, images_NCHW[batch]), targets[batch])
            found = torch.autograd.grad(loss, theta)
            decayed = [g + recipe.weight_decay * p.detach() for g, p in zip(found, theta, strict=True)]
            current = descend(theta, decayed, velocity, rate=rate, momentum=recipe.momentum)
        if on_epoch is not None:
            on_epoch(epoch + 1, current)
    return current


@torch.no_grad()
def accuracy(net: ConvNet, parameters: Sequence[Tensor], images_NCHW: Tensor, class_N: Tensor) -> float:
    """Share of images whose likeliest class is theirs."""
    right = 0
    for images, classes in zip(images_NCHW.split(500), class_N.split(500), strict=True):
        right += int((net(parameters, images).argmax(1) == classes).sum())
    return right / len(class_N)
