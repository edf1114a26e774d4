"""A generator of images with a latent space: half of an autoencoder of the real images.

Legend: N images, B a batch, P pixels of an image (all channels), Z latent numbers, H hidden units.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from distill_core.errors import DataError
from distill_core.files import atomic_write_bytes
from distill_synthesis.matching.options import LatentOptions
from distill_synthesis.matching.randomness import generator

FILE = "state/latent.pt"
ADAM = (1e-3, 0.9, 0.999, 1e-8)
"""Learning rate, decay of both moments, epsilon."""


class Latent:
    """Latent codes of mean 0 and standard deviation 1, and the images that stand for them.

    Encoder and decoder are two linear layers each with a ReLU between; the decoder ends in a sigmoid, stretched to the
    range that bytes can say. Trained by Adam on the squared error.

    Args:
        shape: (C, H, W) of an image.
        bounds: least and greatest value of a pixel, each [C, 1, 1].
        parameters: of the encoder and the decoder, weight and bias of every layer, then mean and scale of codes [Z].
    """

    def __init__(self, shape: Sequence[int], bounds: tuple[Tensor, Tensor], parameters: Sequence[Tensor]) -> None:
        self.shape = tuple(shape)
        self.low_C11, self.high_C11 = bounds
        self.encoder, self.decoder = list(parameters[:4]), list(parameters[4:8])
        self.mean_Z, self.std_Z = parameters[8], parameters[9]

    def encode(self, images_NCHW: Tensor) -> Tensor:
        """[N, Z] codes."""
        return (_two_layers(self.encoder, images_NCHW.flatten(1)) - self.mean_Z) / self.std_Z

    def decode(self, codes_NZ: Tensor) -> Tensor:
        """[N, C, H, W], differentiable; within the bounds."""
        shares_NP = torch.sigmoid(_two_layers(self.decoder, codes_NZ * self.std_Z + self.mean_Z))
        return self.low_C11 + (self.high_C11 - self.low_C11) * shares_NP.view(-1, *self.shape)

    @property
    def parameters(self) -> list[Tensor]:
        return [*self.encoder, *self.decoder, self.mean_Z, self.std_Z]


def learned_latent(
    images_NCHW: Tensor, bounds: tuple[Tensor, Tensor], options: LatentOptions, *, seed: int, key: str, directory: Path
) -> Latent:
    """The latent space of these images, from ``directory`` if it was learned before.

    Raises:
        DataError: what lies there is damaged.
    """
    shape, path = tuple(images_NCHW.shape[1:]), directory / FILE
    if path.exists():
        try:
            found = torch.load(path, weights_only=True)
            held, parameters = found["key"], [tensor.to(images_NCHW.device) for tensor in found["parameters"]]
        except Exception as error:
            raise DataError(
                f"{path}: no latent space ({type(error).__name__}): the file is damaged; delete the directory to start "
                "over"
            ) from error
        if held == key:
            return Latent(shape, bounds, parameters)
    latent = _trained(images_NCHW, Latent(shape, bounds, _initial(images_NCHW, options, seed)), options, seed)
    buffer = io.BytesIO()
    torch.save({"key": key, "parameters": [tensor.cpu() for tensor in latent.parameters]}, buffer)
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write_bytes(path, buffer.getvalue())
    return latent


def _initial(images_NCHW: Tensor, options: LatentOptions, seed: int) -> list[Tensor]:
    """Weights of standard deviation sqrt(2 / inputs), biases of zero, codes as they come."""
    pixels, drawing = images_NCHW[0].numel(), generator(seed, "latent")
    parameters = []
    widths = (pixels, options.hidden, options.width, options.hidden, pixels)
    for inputs, outputs in (
        (widths[0], widths[1]),
        (widths[1], widths[2]),
        (widths[2], widths[3]),
        (widths[3], widths[4]),
    ):
        parameters += [torch.randn(outputs, inputs, generator=drawing) * (2 / inputs) ** 0.5, torch.zeros(outputs)]
    codes = [torch.zeros(options.width), torch.ones(options.width)]
    return [tensor.to(images_NCHW.device) for tensor in (*parameters, *codes)]


def _trained(images_NCHW: Tensor, latent: Latent, options: LatentOptions, seed: int) -> Latent:
    """The autoencoder after its epochs, its codes brought to mean 0 and standard deviation 1."""
    weights = [tensor.requires_grad_() for tensor in latent.parameters[:8]]
    rate, first, second, eps = ADAM
    optimizer = torch.optim.Adam(weights, lr=rate, betas=(first, second), eps=eps)
    for epoch in range(options.epochs):
        order_N = torch.randperm(len(images_NCHW), generator=generator(seed, "latent", epoch))
        for batch in order_N.split(options.batch):
            real_BCHW = images_NCHW[batch]
            optimizer.zero_grad()
            functional.mse_loss(latent.decode(latent.encode(real_BCHW)), real_BCHW).backward()
            optimizer.step()
    with torch.no_grad():
        codes_NZ = latent.encode(images_NCHW)
        spread_Z = codes_NZ.std(0, correction=0)
    # a code that no image uses keeps its place, at scale 1
    scale_Z = torch.where(spread_Z > 1e-6, spread_Z, torch.ones_like(spread_Z))
    done = [tensor.detach() for tensor in weights]
    return Latent(latent.shape, (latent.low_C11, latent.high_C11), [*done, codes_NZ.mean(0), scale_Z])


def _two_layers(parameters: Sequence[Tensor], x: Tensor) -> Tensor:
    hidden = functional.linear(x, parameters[0], parameters[1]).relu()
    return functional.linear(hidden, parameters[2], parameters[3])
