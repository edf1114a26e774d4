"""A whole step of gradient matching over all classes: DC's published form, eager, against `ops.gradient_match`.

Beside them what no distance can save: the real gradients, and the network's double backward along a fixed direction.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from benchmarks import driver
from benchmarks.case import Case, Cases, Run
from benchmarks.driver import run
from benchmarks.matching_problem import MatchingProblem, add_sizes, eager_distance, sizes
from distill_synthesis.matching.second_order import Distance

__all__ = ["TINY", "add_options", "cases", "references", "run", "title"]

BASELINE = "eager loop over layers"
BOUND = "no distance: a fixed direction"
TINY = [
    *("--classes", "2", "--per-class", "2", "--real", "3", "--side", "8"),
    *("--width", "4", "--depth", "2", "--dtype", "float64"),
]


def add_options(parser: argparse.ArgumentParser) -> None:
    """Sizes."""
    add_sizes(parser, per_class=1)
    driver.add_options(parser)


def references(options: argparse.Namespace) -> list[str]:
    return [BASELINE, BOUND]


def title(options: argparse.Namespace) -> str:
    return f"A step over {options.classes} classes, {sizes(options)};"


def cases(options: argparse.Namespace) -> Cases:
    """Value and derivative by the synthetic images of every class; the cases without a distance only cost."""
    problem = MatchingProblem.random(options, options.classes)
    numbers = range(options.classes)
    generator = torch.Generator().manual_seed(1)
    fixed = [torch.randn(p.shape, generator=generator, dtype=torch.float64).to(p.dtype) for p in problem.parameters]

    def synthetic_gradient(number: int) -> tuple[Tensor, tuple[Tensor, ...]]:
        leaf = problem.synthetic[number].detach().requires_grad_()
        loss = problem.loss(number)(problem.parameters, leaf)
        return leaf, torch.autograd.grad(loss, problem.parameters, create_graph=True)

    def step(distance: Callable[[Sequence[Tensor], Sequence[Tensor]], Tensor]) -> tuple[Tensor, ...]:
        values, found = [], []
        for number in numbers:
            real = problem.real_gradient(number)
            leaf, gradient = synthetic_gradient(number)
            value = distance(gradient, real)
            found += torch.autograd.grad(value, leaf)
            values.append(value.detach())
        return (torch.stack(values).sum(), *found)

    def together() -> list[Tensor]:
        """One gradient over all classes instead of one for each."""
        real = problem.gradient_of_all(problem.real)
        leaf = torch.cat(problem.synthetic).requires_grad_()
        parts = list(leaf.split(options.per_class))
        value = Distance()(problem.gradient_of_all(parts, create_graph=True), real)
        return [value.detach(), *torch.autograd.grad(value, leaf)]

    def along(synthetic: Sequence[Tensor], real: Sequence[Tensor]) -> Tensor:
        return torch.stack([(a * v).sum() for a, v in zip(synthetic, fixed, strict=True)]).sum()

    def alone(distance: Callable[[Sequence[Tensor], Sequence[Tensor]], Tensor]) -> Run:
        """Value and derivative by gradients that are there already."""
        pairs = [(problem.real_gradient(n), problem.real_gradient(n)) for n in numbers]
        leaves = [([g.detach() * (1 + i) for i, g in enumerate(made)], real) for made, real in pairs]
        for made, _ in leaves:
            for g in made:
                g.requires_grad_(g.dim() > 1)

        def call() -> list[Any]:
            return [
                torch.autograd.grad(distance(made, real), [g for g in made if g.requires_grad]) for made, real in leaves
            ]

        return call

    return {
        BASELINE: Case(lambda: lambda: step(eager_distance), "DC's form"),
        "distill-core": Case(lambda: lambda: step(Distance()), "DC's form"),
        "distill-core, classes together": Case(lambda: together, "one gradient over all classes", same=False),
        BOUND: Case(lambda: lambda: step(along), "both gradients, double backward", same=False),
        "real gradients alone": Case(
            lambda: lambda: [problem.real_gradient(n) for n in numbers], "no synthetic image", same=False
        ),
        "distance alone, eager loop": Case(lambda: alone(eager_distance), "value and backward", same=False),
        "distance alone, distill-core": Case(lambda: alone(Distance()), "value and backward", same=False),
    }
