"""`linear_sparse_kl`, forward and backward: KL to a sparse teacher from hidden states and head, against its rivals.

Rivals that compute something else than the KL with its tail bucket say so in the table. The floor is the three matrix
products of a head's forward and backward pass in fp32, with no loss between them.
"""

from __future__ import annotations

import argparse
from functools import partial

from benchmarks import driver, formulas, peers
from benchmarks.case import Case, Cases
from benchmarks.driver import run
from benchmarks.head_problem import HeadProblem, add_size_options

__all__ = ["TINY", "add_options", "cases", "references", "run", "title"]

BASELINE, FLOOR, OURS = "log_softmax + gather", "three products", "distill-core"
UPCAST = "log_softmax + gather, upcast to fp32"
TINY = ["--tokens", "13", "--vocabulary", "301", "--hidden", "7", "--support", "5"]


def add_options(parser: argparse.ArgumentParser) -> None:
    """Sizes; N = 1,024, V = 32,000, D = 512, k = 64 by default."""
    add_size_options(parser, tokens=1024, vocabulary=32_000, hidden=512, support=64)
    driver.add_options(parser)


def references(options: argparse.Namespace) -> list[str]:
    return [BASELINE, FLOOR] if options.dtype == "float32" else [BASELINE, UPCAST, FLOOR]


def title(options: argparse.Namespace) -> str:
    pages = "huge pages for all" if options.huge_pages else "default pages"
    return (
        f"N = {options.tokens:,}, V = {options.vocabulary:,}, D = {options.hidden:,}, k = {options.support}, "
        f"{options.dtype}, forward and backward, {pages};"
    )


def cases(options: argparse.Namespace) -> Cases:
    """Every way, the baseline first."""
    p = HeadProblem.of(options)

    def own(function, computes: str, *, same: bool = True, **named: object) -> Case:  # type: ignore[no-untyped-def]
        return Case(lambda: partial(function, p, **named), computes, same)

    tail, truncated = "KL with tail", "KL without tail"
    found: Cases = {BASELINE: own(formulas.eager, f"{tail}, 1 - sum")}
    if options.dtype != "float32":
        found[UPCAST] = own(formulas.eager, f"{tail}, 1 - sum", upcast=True)
    return found | {
        OURS: own(formulas.ours, tail),
        f"{OURS}, recomputing": own(formulas.ours, tail, recompute=True),
        f"{OURS}, no tail": own(formulas.ours, truncated, same=False, mode="truncated"),
        "chunked by hand": own(formulas.chunked_by_hand, f"{tail}, 1 - sum"),
        "torch.compile": Case(lambda: formulas.compiled_eager(p), f"{tail}, 1 - sum", compiled=True),
        "DistillKit's formula": own(formulas.log_softmax_missing_mass, f"{tail}, 1 - sum"),
        "axolotl's chunks": own(formulas.chunked_logsumexp, truncated, same=False),
        "axolotl's chunks with Liger": own(formulas.chunked_grad_in_forward, truncated, same=False),
        "TRL server": peers.trl_server(p),
        "TRL chunked": peers.trl_chunked(p),
        "TRL GKD": peers.trl_gkd(p),
        "Liger chunked": peers.liger(p, compiled=False),
        "Liger chunked, compiled": peers.liger(p, compiled=True),
        "torch linear_cross_entropy": peers.linear_cross_entropy(p),
        FLOOR: own(formulas.three_products, "three products, no loss", same=False),
    }
