"""`gradient_match`, value and backward over a list of 100 gradient tensors, against the eager loop over tensors.

The list: 60 of 256 x 256, 20 of 1,024 x 256 and 20 vectors of 256, which a row-wise cosine leaves out.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from torch import Tensor

from benchmarks import driver
from benchmarks.case import Case, Cases, Run
from benchmarks.driver import run
from benchmarks.head_problem import DTYPES
from distill_core import ops

__all__ = ["TINY", "add_options", "cases", "references", "run", "title"]

BASELINE = "eager loop"
TINY = ["--scale", "0.02"]
EPS = 1e-6


def add_options(parser: argparse.ArgumentParser) -> None:
    """Form of the distance and size of the list."""
    parser.add_argument("--scale", type=float, default=1.0, help="of every side of the tensors, default 1")
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="default float32")
    driver.add_options(parser)


def references(options: argparse.Namespace) -> list[str]:
    return [BASELINE]


def title(options: argparse.Namespace) -> str:
    numbers = sum(x.numel() for x in gradients(options)[0])
    return f"Row-wise cosine over 100 tensors, {numbers:,} numbers, {options.dtype}, value and backward;"


def gradients(options: argparse.Namespace) -> tuple[list[Tensor], list[Tensor]]:
    """(synthetic, real), the same numbers for the same options."""
    generator = torch.Generator().manual_seed(0)
    small, large = (max(1, round(side * options.scale)) for side in (256, 1024))
    shapes = [(small, small)] * 60 + [(large, small)] * 20 + [(small,)] * 20
    wide = torch.float64 if options.dtype == "float64" else torch.float32
    lists = [[torch.randn(shape, generator=generator, dtype=wide) for shape in shapes] for _ in range(2)]
    synthetic, real = ([x.to(DTYPES[options.dtype]) for x in one] for one in lists)
    return [x.requires_grad_(x.dim() > 1) for x in synthetic], real


def row_cosine(a: Tensor, b: Tensor) -> Tensor:
    """DC's form: the product of the norms plus a constant."""
    a, b = (x.flatten(1) if x.dtype == torch.float64 else x.flatten(1).float() for x in (a, b))
    return (1 - (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1) + EPS)).sum()


def cases(options: argparse.Namespace) -> Cases:
    """All in DC's form, so that the loop needs no case distinction."""
    synthetic, real = gradients(options)
    wanted = [x for x in synthetic if x.requires_grad]

    def both(value: Tensor) -> tuple[Any, ...]:
        return (value, *torch.autograd.grad(value, wanted))

    def loop(a: list[Tensor], b: list[Tensor]) -> Tensor:
        return torch.stack([row_cosine(x, y) for x, y in zip(a, b, strict=True) if x.dim() > 1]).sum()

    def compiled() -> Run:
        one = torch.compile(row_cosine, dynamic=False)
        pairs = [(x, y) for x, y in zip(synthetic, real, strict=True) if x.dim() > 1]
        return lambda: both(torch.stack([one(x, y) for x, y in pairs]).sum())

    def ours(eps_mode: str) -> Run:
        return lambda: both(
            ops.gradient_match(synthetic, real, eps=EPS if eps_mode == "added" else 1e-12, eps_mode=eps_mode)  # type: ignore[arg-type]
        )

    return {
        BASELINE: Case(lambda: lambda: both(loop(synthetic, real)), "DC's form, eps added"),
        "eager loop, torch.compile per tensor": Case(compiled, "DC's form, eps added", compiled=True),
        "distill-core": Case(lambda: ours("added"), "DC's form, eps added"),
        "distill-core, clamp": Case(lambda: ours("clamp"), "norms clamped", same=False),
    }
