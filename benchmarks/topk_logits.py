"""`topk_logits` with its tail in one read, against log_softmax + topk, torch.topk alone, and a bare read of the logits.

`--rows` picks the kind of rows: random; ascending; tied (a few distinct values); constant.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from torch import Tensor

from benchmarks import driver
from benchmarks.case import Case, Cases
from benchmarks.driver import run
from benchmarks.head_problem import DTYPES, add_size_options
from distill_core import ops

__all__ = ["TINY", "add_options", "cases", "references", "run", "title"]

BASELINE, READ, OURS = "log_softmax + topk", "one read (amax)", "distill-core"
TINY = ["--tokens", "5", "--vocabulary", "301", "--support", "5"]
KINDS = ("random", "ascending", "tied", "constant")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Sizes; N = 256, V = 128,256, k = 64 by default."""
    add_size_options(parser, tokens=256, vocabulary=128_256, support=64)
    parser.add_argument("--rows", choices=KINDS, default="random", help="default random")
    driver.add_options(parser)


def references(options: argparse.Namespace) -> list[str]:
    return [BASELINE, READ]


def title(options: argparse.Namespace) -> str:
    return (
        f"N = {options.tokens:,}, V = {options.vocabulary:,}, k = {options.support}, {options.dtype}, "
        f"{options.rows} rows;"
    )


def logits(options: argparse.Namespace) -> Tensor:
    """[N, V] of the kind asked for."""
    generator = torch.Generator().manual_seed(0)
    z_NV = torch.randn(options.tokens, options.vocabulary, generator=generator) * 3
    if options.rows == "ascending":
        z_NV = z_NV.sort(1).values
    elif options.rows == "tied":
        z_NV = z_NV.div(4).round()
    elif options.rows == "constant":
        z_NV = torch.ones_like(z_NV)
    return z_NV.to(DTYPES[options.dtype]).contiguous()


def cases(options: argparse.Namespace) -> Cases:
    """The baseline keeps the k log-probabilities; its tail costs next to nothing more, and is left out."""
    z_NV, k = logits(options), options.support

    def baseline() -> Any:
        return z_NV.float().log_softmax(1).topk(k)

    def ours() -> Any:
        found = ops.topk_logits(z_NV, k)
        return found.logits_NK, found.ids_NK, found.tail_NT

    return {
        BASELINE: Case(lambda: baseline, "log-probabilities, no tail", same=False),
        OURS: Case(lambda: ours, "logits, exact tail, ties by lowest id"),
        "torch.topk alone": Case(lambda: lambda: z_NV.topk(k), "logits, no tail", same=False),
        READ: Case(lambda: lambda: z_NV.amax(1), "the largest logit", same=False),
        "one read (sum)": Case(lambda: lambda: z_NV.sum(1, dtype=torch.float32), "a sum", same=False),
    }
