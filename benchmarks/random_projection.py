"""`random_projection`, whose signs are computed where they are used, against a matrix of random signs."""

from __future__ import annotations

import argparse
from typing import Any

import torch

from benchmarks import driver
from benchmarks.case import Case, Cases, Run
from benchmarks.driver import run
from distill_core import ops

__all__ = ["TINY", "add_options", "cases", "references", "run", "title"]

BASELINE = "matrix made and multiplied"
TINY = ["--samples", "2", "--features", "301", "--dim", "8"]
SEED = 0


def add_options(parser: argparse.ArgumentParser) -> None:
    """Sizes; 4 samples of 1,000,000 features to 1,024 by default. The matrix of that size takes 4 GB."""
    for name, default in (("samples", 4), ("features", 1_000_000), ("dim", 1024)):
        parser.add_argument(f"--{name}", type=int, default=default, help=f"default {default}")
    driver.add_options(parser)


def references(options: argparse.Namespace) -> list[str]:
    return [BASELINE]


def title(options: argparse.Namespace) -> str:
    return f"{options.samples} samples, {options.features:,} features to {options.dim:,}, fp32;"


def cases(options: argparse.Namespace) -> Cases:
    """A matrix that is kept would cost its product alone; its case holds it before the time starts."""
    generator = torch.Generator().manual_seed(SEED)
    features = torch.randn(options.samples, options.features, generator=generator)

    def signs() -> torch.Tensor:
        matrix = torch.empty(options.features, options.dim)
        return matrix.bernoulli_(generator=torch.Generator().manual_seed(SEED)).mul_(2).sub_(1)

    def made() -> torch.Tensor:
        return features @ signs() / options.dim**0.5

    def kept() -> Run:
        matrix = signs()
        return lambda: features @ matrix / options.dim**0.5

    def ours() -> Any:
        return ops.random_projection([features], options.dim, seed=SEED)

    return {
        BASELINE: Case(lambda: made, "signs of torch's generator", same=False),
        "matrix kept, multiplied": Case(kept, "signs of torch's generator", same=False),
        "distill-core": Case(lambda: ours, "signs keyed by seed and feature"),
    }
