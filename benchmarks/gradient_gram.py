"""`gradient_gram` against both of its schedules written plainly: ghost inner products, and gradients formed."""

from __future__ import annotations

import argparse

import torch

from benchmarks import driver
from benchmarks.case import Case, Cases
from benchmarks.driver import run
from distill_core import ops

__all__ = ["TINY", "add_options", "cases", "references", "run", "title"]

GHOST, FORMED = "ghost, one einsum per side", "formed, one product"
TINY = ["--samples", "3", "--positions", "4", "--width", "5"]


def add_options(parser: argparse.ArgumentParser) -> None:
    """Sizes; 24 samples of 64 positions in a layer of 256 x 256 by default."""
    for name, default in (("samples", 24), ("positions", 64), ("width", 256)):
        parser.add_argument(f"--{name}", type=int, default=default, help=f"default {default}")
    driver.add_options(parser)


def references(options: argparse.Namespace) -> list[str]:
    return [GHOST, FORMED]


def title(options: argparse.Namespace) -> str:
    return (
        f"{options.samples} x {options.samples} samples, T = {options.positions}, layer {options.width} x "
        f"{options.width}, fp32;"
    )


def cases(options: argparse.Namespace) -> Cases:
    generator = torch.Generator().manual_seed(0)
    shape = options.samples, options.positions, options.width
    acts_a, grads_a, acts_b, grads_b = (torch.randn(shape, generator=generator) for _ in range(4))
    batch, positions = options.samples, options.positions

    def ghost() -> torch.Tensor:
        acts = acts_a.flatten(0, 1) @ acts_b.flatten(0, 1).T
        acts *= grads_a.flatten(0, 1) @ grads_b.flatten(0, 1).T
        return acts.view(batch, positions, batch, positions).sum((1, 3))

    def formed() -> torch.Tensor:
        return (grads_a.mT @ acts_a).flatten(1) @ (grads_b.mT @ acts_b).flatten(1).T

    return {
        GHOST: Case(lambda: ghost, "Gram matrix"),
        FORMED: Case(lambda: formed, "Gram matrix"),
        "distill-core": Case(lambda: lambda: ops.gradient_gram(acts_a, grads_a, acts_b, grads_b), "Gram matrix"),
    }
