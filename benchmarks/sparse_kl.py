"""`linear_sparse_kl`, forward and backward, against `log_softmax` + `gather` in eager torch."""

from __future__ import annotations

import argparse

import torch
from torch import Tensor

from benchmarks.measure import interleave, machine, table
from distill_core import ops

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Sizes; the defaults take about a quarter of a minute on two cores."""
    for name, default in (("tokens", 512), ("vocabulary", 16_384), ("hidden", 256), ("support", 32), ("rounds", 7)):
        parser.add_argument(f"--{name}", type=int, default=default, help=f"default {default}")
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="of hidden states and weight")
    parser.add_argument("--threads", type=int, default=None, help="torch threads; default: torch's own choice")


def eager(hidden: Tensor, weight: Tensor, ids: Tensor, logp: Tensor) -> Tensor:
    """What one writes first: all logits at once, the tail by 1 - sum (inexact where the tail is small)."""
    logq = torch.log_softmax((hidden @ weight.T).float(), 1).gather(1, ids)
    p, t = logp.exp(), (1 - logp.exp().sum(1)).clamp_min(1e-9)
    qbar = (1 - logq.exp().sum(1)).clamp_min(1e-9)
    return ((p * (logp - logq)).sum(1) + t * (t.log() - qbar.log())).mean()


def run(options: argparse.Namespace) -> str:
    """The table, with the sizes above it."""
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    n, v, d, k = options.tokens, options.vocabulary, options.hidden, options.support
    dtype = DTYPES[options.dtype]
    hidden = torch.randn(n, d).to(dtype).requires_grad_()
    weight = (torch.randn(v, d) / d**0.5).to(dtype).requires_grad_()
    ids, logp = ops.topk_logits(torch.randn(n, v) * 3, k).ids_NK, torch.log_softmax(torch.randn(n, k) * 2, 1) - 0.1

    def step(loss: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad(loss, (hidden, weight))

    timings = interleave(
        {
            "log_softmax + gather": lambda: step(eager(hidden, weight, ids, logp)),
            "linear_sparse_kl": lambda: step(ops.linear_sparse_kl(hidden, weight, ids, logp)),
            "linear_sparse_kl, recomputing": lambda: step(
                ops.linear_sparse_kl(hidden, weight, ids, logp, reduction="none").mean()
            ),
        },
        rounds=options.rounds,
    )
    chosen = ops.chosen().get("linear_sparse_kl")
    return f"N = {n}, V = {v}, D = {d}, K = {k}, {options.dtype}, implementation: {chosen}; {machine()}\n\n" + table(
        timings, baseline="log_softmax + gather"
    )
