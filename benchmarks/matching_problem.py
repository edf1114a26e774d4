"""A step of gradient matching as a benchmark meets it: DC's network at random parameters, random images of every class.

Legend: N real images of a class, M synthetic ones of a class, C channels, H height, W width.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.head_problem import DTYPES
from distill_synthesis.matching.networks import ConvNet
from distill_synthesis.matching.options import NetworkOptions

EPS = 1e-6
"""In the denominator of DC's cosine."""


def add_sizes(parser: argparse.ArgumentParser, *, per_class: int) -> None:
    """Those of DC on MNIST by default: 28 x 28, depth 3, width 128."""
    for name, default in (("classes", 10), ("per-class", per_class), ("real", 64), ("side", 28), ("width", 128)):
        parser.add_argument(f"--{name}", type=int, default=default, help=f"default {default}")
    parser.add_argument("--depth", type=int, default=3, help="blocks, default 3")
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="default float32")


def sizes(options: argparse.Namespace) -> str:
    return (
        f"{options.side} x {options.side}, {options.per_class} synthetic and {options.real} real images per class, "
        f"{options.depth} blocks of width {options.width}, {options.dtype}"
    )


@dataclass(frozen=True)
class MatchingProblem:
    """One network and images of some classes."""

    net: ConvNet
    parameters: list[Tensor]
    synthetic: list[Tensor]
    real: list[Tensor]

    @classmethod
    def random(cls, options: argparse.Namespace, classes: int) -> MatchingProblem:
        """The same numbers for the same options."""
        dtype, generator = DTYPES[options.dtype], torch.Generator().manual_seed(0)
        described = NetworkOptions(depth=options.depth, width=options.width)
        net = ConvNet(1, options.side, options.side, options.classes, described)

        def images(count: int) -> Tensor:
            return torch.randn(count, 1, options.side, options.side, generator=generator, dtype=torch.float64).to(dtype)

        parameters = [p.to(dtype).requires_grad_() for p in net.initial(generator)]
        synthetic = [images(options.per_class) for _ in range(classes)]
        return cls(net, parameters, synthetic, [images(options.real) for _ in range(classes)])

    def loss(self, number: int) -> Callable[[Sequence[Tensor], Tensor], Tensor]:
        """Mean cross-entropy of images of a class."""

        def of(parameters: Sequence[Tensor], images_BCHW: Tensor) -> Tensor:
            classes_B = torch.full((len(images_BCHW),), number)
            return functional.cross_entropy(self.net(parameters, images_BCHW), classes_B)

        return of

    def real_gradient(self, number: int) -> tuple[Tensor, ...]:
        """Of the parameters, on the real images of a class."""
        return torch.autograd.grad(self.loss(number)(self.parameters, self.real[number]), self.parameters)

    def gradient_of_all(self, images: Sequence[Tensor], *, create_graph: bool = False) -> tuple[Tensor, ...]:
        """Of the parameters, on images of all classes, those of class c at place c."""
        classes_B = torch.cat([torch.full((len(part),), number) for number, part in enumerate(images)])
        loss = functional.cross_entropy(self.net(self.parameters, torch.cat(list(images))), classes_B)
        return torch.autograd.grad(loss, self.parameters, create_graph=create_graph)


def eager_distance(synthetic: Sequence[Tensor], real: Sequence[Tensor]) -> Tensor:
    """DC's distance in its published form: a loop over layers, a cosine per output neuron, vectors left out."""
    total = torch.zeros((), dtype=synthetic[0].dtype)
    for a, b in zip(synthetic, real, strict=True):
        if a.dim() > 1:
            a, b = a.flatten(1), b.flatten(1)
            total = total + torch.sum(
                1 - torch.sum(a * b, dim=-1) / (torch.norm(a, dim=-1) * torch.norm(b, dim=-1) + EPS)
            )
    return total
