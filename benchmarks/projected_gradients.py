"""Per-sequence gradients of a transformer's linear layers, projected: layer by layer, with signs made where they are
used, against gradients of all layers side by side [B, P] times a matrix of signs [P, K].

Both take the gradients by the same hooks; what differs is what is materialised.
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor

from benchmarks import driver
from benchmarks.case import Case, Cases, Run
from benchmarks.driver import run
from distill_core.engine.features.per_sample import ProjectedGradients, linear_layers, visit_gradients
from distill_core.engine.features.sequence_model import SequenceModel
from distill_core.types import TokenBatch

__all__ = ["TINY", "add_options", "cases", "references", "run", "title"]

MADE, KEPT = "gradients side by side, matrix made", "gradients side by side, matrix kept"
TINY = ["--sequences", "2", "--length", "4", "--hidden", "8", "--layers", "1", "--dim", "5"]
SEED = 0


def add_options(parser: argparse.ArgumentParser) -> None:
    """Sizes; 8 sequences of 64 tokens, 4 layers of width 128, 851,968 weights to 512 by default."""
    for name, default in (("sequences", 8), ("length", 64), ("hidden", 128), ("layers", 4), ("dim", 512)):
        parser.add_argument(f"--{name}", type=int, default=default, help=f"default {default}")
    driver.add_options(parser)


def references(options: argparse.Namespace) -> list[str]:
    return [MADE, KEPT]


def title(options: argparse.Namespace) -> str:
    model = _model(options)
    weights = sum(layer.weight.numel() for layer in linear_layers(model.model, None).values())
    return (
        f"{options.sequences} sequences of {options.length} tokens, {weights:,} weights of linear layers to "
        f"{options.dim}, fp32;"
    )


def _model(options: argparse.Namespace) -> SequenceModel:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(SEED)
    config = LlamaConfig(
        vocab_size=512,
        hidden_size=options.hidden,
        intermediate_size=3 * options.hidden,
        num_hidden_layers=options.layers,
        num_attention_heads=2,
        tie_word_embeddings=True,
    )
    return SequenceModel(LlamaForCausalLM(config), next_token=True)


def cases(options: argparse.Namespace) -> Cases:
    """The signs differ, so the projections do; `matrix kept` holds its matrix before the time starts."""
    model = _model(options)
    layers = linear_layers(model.model, None)
    weights = sum(layer.weight.numel() for layer in layers.values())
    generator = torch.Generator().manual_seed(SEED)
    ids_BT = torch.randint(512, (options.sequences, options.length), generator=generator)
    keys = tuple(index.to_bytes(16, "big") for index in range(options.sequences))
    batch = TokenBatch(ids_BT, torch.ones_like(ids_BT), ids_BT, keys)

    def signs() -> Tensor:
        matrix_PK = torch.empty(weights, options.dim)
        return matrix_PK.bernoulli_(generator=torch.Generator().manual_seed(SEED)).mul_(2).sub_(1)

    def side_by_side() -> Tensor:
        parts: dict[str, Tensor] = {}

        def visit(name: str, acts_BTI: Tensor, grads_BTO: Tensor) -> None:
            parts[name] = torch.bmm(grads_BTO.transpose(1, 2), acts_BTI).flatten(1)

        visit_gradients(model, batch, layers, visit)
        return torch.cat([parts[name] for name in layers], dim=1)

    def made() -> Tensor:
        return side_by_side() @ signs() / options.dim**0.5

    def kept() -> Run:
        matrix_PK = signs()
        return lambda: side_by_side() @ matrix_PK / options.dim**0.5

    def ours() -> Run:
        projected = ProjectedGradients(model, layers, dim=options.dim, seed=SEED)
        return lambda: projected(batch)

    return {
        MADE: Case(lambda: made, "signs of torch's generator", same=False),
        KEPT: Case(kept, "the same, matrix there before", same=False),
        "distill-core": Case(ours, "signs keyed by seed and feature", same=False),
        "gradients side by side alone": Case(lambda: side_by_side, "no projection", same=False),
    }
