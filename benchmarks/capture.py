"""What capturing a teacher's top-k costs: hidden states + `linear_topk_logits` against the 135M model's own forward.

The model's own forward computes all logits [N, V] and keeps them; so does the usual capture, which then takes
log_softmax and topk of them.
"""

from __future__ import annotations

import argparse
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from benchmarks import driver
from benchmarks.case import Case, Cases
from benchmarks.driver import run
from distill_core import ops

__all__ = ["TINY", "add_options", "cases", "references", "run", "title"]

FORWARD, OURS = "the model's forward with logits", "hidden states + linear_topk_logits"
TINY = ["--tokens", "16", "--sequence", "8", "--support", "5"]


def add_options(parser: argparse.ArgumentParser) -> None:
    """Sizes; 4 sequences of 256 tokens, k = 64 by default."""
    for name, default in (("tokens", 1024), ("sequence", 256), ("support", 64)):
        parser.add_argument(f"--{name}", type=int, default=default, help=f"default {default}")
    driver.add_options(parser)


def references(options: argparse.Namespace) -> list[str]:
    return [FORWARD]


def title(options: argparse.Namespace) -> str:
    return (
        f"The 135M teacher (30 layers, d = 576, V = 49,152), {options.tokens:,} tokens in sequences of "
        f"{options.sequence}, k = {options.support}, fp32;"
    )


@lru_cache(maxsize=1)
def teacher() -> Any:
    from benchmarks.real_models import load_teacher

    return load_teacher()[0]


def ways(model: Any, ids_BT: Tensor, k: int) -> Cases:
    """The cases for a causal language model and its input."""

    @torch.inference_mode()
    def forward() -> Any:
        return model(input_ids=ids_BT, use_cache=False).logits

    @torch.inference_mode()
    def usual() -> Any:
        logits_NV = model(input_ids=ids_BT, use_cache=False).logits.flatten(0, 1)
        return logits_NV.log_softmax(1).topk(k)

    @torch.inference_mode()
    def ours() -> Any:
        hidden_ND = model.get_decoder()(input_ids=ids_BT, use_cache=False).last_hidden_state.flatten(0, 1)
        found = ops.linear_topk_logits(hidden_ND, model.get_output_embeddings().weight, k)
        return found.logits_NK, found.ids_NK, found.tail_NT

    return {
        FORWARD: Case(lambda: forward, "all logits, kept", same=False),
        "the model's forward, log_softmax, topk": Case(lambda: usual, "top-k log-probabilities", same=False),
        OURS: Case(lambda: ours, "top-k logits, exact tail"),
    }


def cases(options: argparse.Namespace) -> Cases:
    model = teacher()
    shape = options.tokens // options.sequence, options.sequence
    ids_BT = torch.randint(model.config.vocab_size, shape, generator=torch.Generator().manual_seed(0))
    return ways(model, ids_BT, options.support)
