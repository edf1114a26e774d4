"""`sparse_kl` on logits that exist, forward and backward, against eager torch and torch.compile."""

from __future__ import annotations

import argparse
from typing import Any

import torch
from torch import Tensor

from benchmarks import driver
from benchmarks.case import Case, Cases, Run
from benchmarks.driver import run
from benchmarks.formulas import tail_loss
from benchmarks.head_problem import DTYPES, add_size_options
from distill_core import ops

__all__ = ["TINY", "add_options", "cases", "references", "run", "title"]

BASELINE, COMPILED, OURS = "log_softmax + gather", "torch.compile", "distill-core"
TINY = ["--tokens", "13", "--vocabulary", "301", "--support", "5"]


def add_options(parser: argparse.ArgumentParser) -> None:
    """Sizes; N = 1,024, V = 32,000, k = 64 by default."""
    add_size_options(parser, tokens=1024, vocabulary=32_000, support=64)
    driver.add_options(parser)


def references(options: argparse.Namespace) -> list[str]:
    return [BASELINE, COMPILED]


def title(options: argparse.Namespace) -> str:
    pages = "huge pages for all" if options.huge_pages else "default pages"
    return (
        f"N = {options.tokens:,}, V = {options.vocabulary:,}, k = {options.support}, {options.dtype}, "
        f"forward and backward, {pages};"
    )


def cases(options: argparse.Namespace) -> Cases:
    """Eager, compiled, ours."""
    generator = torch.Generator().manual_seed(0)
    dtype = DTYPES[options.dtype]
    shape = options.tokens, options.vocabulary
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    top = ops.topk_logits(torch.randn(*shape, generator=generator, dtype=wide) * 3, options.support)
    logp_NK, tail_logp_N = (x.contiguous() for x in top.log_probs())
    logits_NV = (torch.randn(*shape, generator=generator, dtype=wide) * 3).to(dtype).requires_grad_()

    def both(loss: Tensor) -> tuple[Tensor, ...]:
        return (loss, *torch.autograd.grad(loss, logits_NV))

    def ours() -> Any:
        return both(ops.sparse_kl(logits_NV, top.ids_NK, logp_NK, tail_logp_N=tail_logp_N))

    def compiled() -> Run:
        loss = torch.compile(tail_loss, dynamic=False)
        return lambda: both(loss(logits_NV, top.ids_NK, logp_NK, tail_logp_N))

    return {
        BASELINE: Case(lambda: lambda: both(tail_loss(logits_NV, top.ids_NK, logp_NK, tail_logp_N)), "tail by 1 - sum"),
        COMPILED: Case(compiled, "tail by 1 - sum", compiled=True),
        OURS: Case(lambda: ours, "tail by its own logsumexp"),
    }
