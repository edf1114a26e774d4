"""Gradient matching by the compiled CPU kernels: all tensors of both lists in one call."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .. import cpu_library
from .reference import Rule, as_rows

DISTANCES = ("cosine", "l2", "l2+l1")
GROUPS = ("row", "tensor", "global")
_RULE = "float[] weights, int distance, int group, float eps, bool added"

cpu_library.define(
    f"match_forward(Tensor[] a, Tensor[] b, {_RULE}) -> (Tensor, Tensor)",
    f"match_backward(Tensor upstream, Tensor[] a, Tensor[] b, Tensor statistics, {_RULE}) -> Tensor",
)


def _matrices(tensors: Sequence[Tensor], rule: Rule) -> list[Tensor]:
    """Rows as the kernel takes them: contiguous, apart from one another by a stride."""
    found = (as_rows(x, rule.group if rule.distance == "cosine" else "tensor") for x in tensors)
    return [x if x.shape[1] < 2 or x.stride(1) == 1 else x.contiguous() for x in found]


def _options(rule: Rule) -> tuple[int, int, float, bool]:
    return DISTANCES.index(rule.distance), GROUPS.index(rule.group), rule.eps, rule.eps_mode == "added"


def forward(a: Sequence[Tensor], b: Sequence[Tensor], weights: list[float], rule: Rule) -> tuple[Tensor, Tensor]:
    """Value; [R, 3] of cosine, |a|, |b|."""
    value, statistics = torch.ops.distill_core_cpu.match_forward(
        _matrices(a, rule), _matrices(b, rule), weights, *_options(rule)
    )
    return value, statistics


def backward(
    upstream: Tensor, a: Sequence[Tensor], b: Sequence[Tensor], statistics: Tensor, weights: list[float], rule: Rule
) -> Tensor:
    """Gradient of all of `a`, flattened one after the other."""
    flat: Tensor = torch.ops.distill_core_cpu.match_backward(
        upstream.contiguous(), _matrices(a, rule), _matrices(b, rule), statistics, weights, *_options(rule)
    )
    return flat
