"""Differentiable augmentations, the same for all images of a call (siamese).

Legend: B images, C channels, H height, W width.

Dataset Condensation with Differentiable Siamese Augmentation (arXiv 2102.08259): one kind is drawn per step, with one
set of random numbers for real and synthetic images alike, and the gradient goes through it to the synthetic pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

SCALE, DEGREES, BRIGHTNESS, SATURATION, CONTRAST, CROP, CUTOUT = 1.2, 15.0, 1.0, 2.0, 0.5, 0.125, 0.5
"""The paper's strengths: largest zoom, angle, added value, factor of colour, of contrast; shares of the side."""


class Augmentation:
    """One drawn augmentation: call it on real and on synthetic images.

    Args:
        names: kinds to draw from; none: images pass as they are.
        generator: of the draw; kind and strength depend on its state alone.

    >>> same = Augmentation((), torch.Generator())
    >>> same(torch.ones(1, 1, 2, 2)).sum()
    tensor(4.)
    """

    def __init__(self, names: Sequence[str], generator: torch.Generator) -> None:
        self.name = names[int(torch.randint(len(names), (), generator=generator))] if names else None
        self.numbers = torch.rand(4, generator=generator).tolist()

    def __call__(self, images_BCHW: Tensor) -> Tensor:
        if self.name is None:
            return images_BCHW
        result: Tensor = getattr(self, f"_{self.name}")(images_BCHW)
        return result

    def _brightness(self, images: Tensor) -> Tensor:
        return images + (self.numbers[0] - 0.5) * BRIGHTNESS

    def _saturation(self, images: Tensor) -> Tensor:
        grey = images.mean(dim=1, keepdim=True)
        return (images - grey) * (self.numbers[0] * SATURATION) + grey

    def _contrast(self, images: Tensor) -> Tensor:
        mean = images.mean(dim=(1, 2, 3), keepdim=True)
        return (images - mean) * (self.numbers[0] + CONTRAST) + mean

    def _crop(self, images: Tensor) -> Tensor:
        """Moved by up to an eighth of the side; zeros come in."""
        height, width = images.shape[2:]
        down, right = (self._whole(i, 2 * round(side * CROP) + 1) for i, side in ((0, height), (1, width)))
        most = (round(height * CROP), round(width * CROP))
        padded = functional.pad(images, (most[1], most[1], most[0], most[0]))
        return padded[:, :, down : down + height, right : right + width]

    def _cutout(self, images: Tensor) -> Tensor:
        """A rectangle of half the sides, its centre anywhere, becomes zero."""
        height, width = images.shape[2:]
        mask = images.new_ones(height, width)
        spans = []
        for index, side in ((0, height), (1, width)):
            length = round(side * CUTOUT)
            start = self._whole(index, side + 1 - length % 2) - length // 2
            spans.append(slice(max(0, start), max(0, start + length)))
        mask[spans[0], spans[1]] = 0
        return images * mask

    def _flip(self, images: Tensor) -> Tensor:
        return images.flip(3) if self.numbers[0] < 0.5 else images

    def _scale(self, images: Tensor) -> Tensor:
        x, y = (n * (SCALE - 1 / SCALE) + 1 / SCALE for n in self.numbers[:2])
        return _warped(images, ((x, 0.0, 0.0), (0.0, y, 0.0)))

    def _rotate(self, images: Tensor) -> Tensor:
        angle = math.radians((self.numbers[0] - 0.5) * 2 * DEGREES)
        return _warped(images, ((math.cos(angle), -math.sin(angle), 0.0), (math.sin(angle), math.cos(angle), 0.0)))

    def _whole(self, index: int, count: int) -> int:
        """A whole number from 0 to count - 1."""
        return min(int(self.numbers[index] * count), count - 1)


def _warped(images: Tensor, matrix: tuple[tuple[float, ...], ...]) -> Tensor:
    theta = images.new_tensor(matrix).expand(len(images), 2, 3)
    grid = functional.affine_grid(theta, list(images.shape), align_corners=True)
    return functional.grid_sample(images, grid, align_corners=True)
