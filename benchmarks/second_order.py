"""The gradient of a gradient distance by the images, in the three ways of `gradient-matching` (`second_order`).

One class: value and derivative by the synthetic images; the real gradient is there already.
"""

from __future__ import annotations

import argparse
from typing import Any

from torch import Tensor

from benchmarks import driver
from benchmarks.case import Case, Cases
from benchmarks.driver import run
from benchmarks.matching_problem import MatchingProblem, add_sizes, sizes
from distill_synthesis.matching.second_order import Distance, Mode, matching_gradient

__all__ = ["TINY", "add_options", "cases", "references", "run", "title"]

BASELINE: Mode = "double-backward"
TINY = ["--per-class", "2", "--real", "3", "--side", "8", "--width", "4", "--depth", "2", "--dtype", "float64"]


def add_options(parser: argparse.ArgumentParser) -> None:
    """Sizes."""
    add_sizes(parser, per_class=10)
    driver.add_options(parser)


def references(options: argparse.Namespace) -> list[str]:
    return [BASELINE]


def title(options: argparse.Namespace) -> str:
    return f"Row-wise cosine of one class, {sizes(options)};"


def cases(options: argparse.Namespace) -> Cases:
    """All compute the same; the central difference up to its step."""
    problem = MatchingProblem.random(options, 1)
    real, loss = problem.real_gradient(0), problem.loss(0)

    def one(mode: Mode) -> Any:
        def call() -> tuple[Tensor, Tensor]:
            return matching_gradient(loss, problem.parameters, problem.synthetic[0], real, Distance(), mode)

        return lambda: call

    return {
        "double-backward": Case(one("double-backward"), "exact"),
        "forward-over-reverse": Case(one("forward-over-reverse"), "exact"),
        "central-difference": Case(one("central-difference"), "two passes in fp64, error below 1e-5", same=False),
    }
