"""The convolutional network of the dataset distillation literature, as a function of its parameters.

Legend: B images, C channels, H height, W width, F features, K classes.

Parameters are a list, not a module: matching needs networks at chosen parameters, and derivatives by them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from distill_core.errors import DataError
from distill_synthesis.matching.options import NetworkOptions

Parameters = Sequence[Tensor]

PER_BLOCK = 4
"""Parameters of a block: weight and bias of the convolution, then of the norm."""

NORM_EPS = 1e-5


@dataclass(frozen=True)
class ConvNet:
    """``depth`` blocks of convolution 3x3, instance norm, ReLU and average pool 2x2, then one linear layer.

    Dataset Condensation with Gradient Matching (arXiv 2006.05929), section 3.1: depth 3 and width 128.

    Args:
        channels, height, width: of an image.
        classes: outputs.
        options: depth, width and padding.

    Raises:
        DataError: the image is too small for so many blocks.

    >>> net = ConvNet(1, 8, 8, 10, NetworkOptions(depth=2, width=32))
    >>> net(net.initial(torch.Generator()), torch.zeros(5, 1, 8, 8)).shape
    torch.Size([5, 10])
    """

    channels: int
    height: int
    width: int
    classes: int
    options: NetworkOptions

    def __post_init__(self) -> None:
        if min(self._last_sides()) < 1:
            raise DataError(
                f"images of {self.height} x {self.width} are too small for {self.options.depth} blocks, each of which "
                "halves them: set network.depth to less"
            )

    def _last_sides(self) -> tuple[int, int]:
        grown = 2 * (self.options.first_padding - 1)
        height, width = self.height + grown, self.width + grown
        return height >> self.options.depth, width >> self.options.depth

    @property
    def features(self) -> int:
        """Numbers that the linear layer reads."""
        height, width = self._last_sides()
        return self.options.width * height * width

    def initial(self, generator: torch.Generator) -> list[Tensor]:
        """New parameters, uniform in +-1/sqrt(fan in) as torch.nn draws them; norms start at 1 and 0."""
        parameters: list[Tensor] = []
        wide, read = self.options.width, self.channels
        for _ in range(self.options.depth):
            parameters += _uniform((wide, read, 3, 3), read * 9, generator)
            parameters += [torch.ones(wide), torch.zeros(wide)]
            read = wide
        return parameters + _uniform((self.classes, self.features), self.features, generator)

    def embed(self, parameters: Parameters, images_BCHW: Tensor) -> Tensor:
        """[B, F], what the linear layer reads."""
        hidden = images_BCHW
        for block in range(self.options.depth):
            weight, bias, scale, shift = parameters[block * PER_BLOCK : (block + 1) * PER_BLOCK]
            padding = 1 if block else self.options.first_padding
            hidden = functional.conv2d(hidden, weight, bias, padding=padding)
            hidden = functional.avg_pool2d(functional.relu(_instance_norm(hidden, scale, shift)), 2)
        return hidden.flatten(1)

    def __call__(self, parameters: Parameters, images_BCHW: Tensor) -> Tensor:
        """[B, K] logits."""
        return functional.linear(self.embed(parameters, images_BCHW), parameters[-2], parameters[-1])


def _uniform(shape: tuple[int, ...], fan_in: int, generator: torch.Generator) -> list[Tensor]:
    bound = 1 / math.sqrt(fan_in)
    return [
        torch.empty(shape).uniform_(-bound, bound, generator=generator),
        torch.empty(shape[0]).uniform_(-bound, bound, generator=generator),
    ]


def _instance_norm(hidden_BCHW: Tensor, scale_C: Tensor, shift_C: Tensor) -> Tensor:
    """In plain operations: torch's own has no forward derivative of its backward pass."""
    centred = hidden_BCHW - hidden_BCHW.mean(dim=(2, 3), keepdim=True)
    variance = (centred * centred).mean(dim=(2, 3), keepdim=True)
    return torch.addcmul(shift_C[:, None, None], centred, torch.rsqrt(variance + NORM_EPS) * scale_C[:, None, None])


def descend(
    parameters: Parameters, gradients: Parameters, velocity: list[Tensor], *, rate: float, momentum: float
) -> list[Tensor]:
    """One step of SGD with momentum (dampening 0); ``velocity`` is changed in place."""
    for moved, gradient in zip(velocity, gradients, strict=True):
        moved.mul_(momentum).add_(gradient.detach())
    return [old.detach() - rate * moved for old, moved in zip(parameters, velocity, strict=True)]
