"""Gradient matching by the compiled CPU kernels: all tensors of both lists in one call."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .. import cpu_library
from ..buffers import with_rows
from .reference import Rule, as_rows

DISTANCES = ("cosine", "l2", "l2+l1")
GROUPS = ("row", "tensor", "global")
_RULE = "float[] weights, int distance, int group, float eps, bool added"

cpu_library.define(
    f"match_forward(Tensor[] a, Tensor[] b, {_RULE}) -> (Tensor, Tensor)",
    f"match_with_gradient(Tensor[] a, Tensor[] b, {_RULE}) -> (Tensor, Tensor, Tensor)",
    f"match_backward(Tensor upstream, Tensor[] a, Tensor[] b, Tensor statistics, {_RULE}) -> Tensor",
)


def _laid(tensors: Sequence[Tensor], rule: Rule) -> list[Tensor]:
    """As the kernel takes them: contiguous; matrices in rows may have their rows apart by a stride."""
    by_row = rule.distance == "cosine" and rule.group == "row"
    return [x if x.is_contiguous() else _copied(x, by_row) for x in tensors]


def _copied(x: Tensor, by_row: bool) -> Tensor:
    if not by_row:
        return x.contiguous()
    return with_rows(as_rows(x, "row"))


def _options(rule: Rule) -> tuple[int, int, float, bool]:
    return DISTANCES.index(rule.distance), GROUPS.index(rule.group), rule.eps, rule.eps_mode == "added"


def forward(a: Sequence[Tensor], b: Sequence[Tensor], weights: list[float], rule: Rule) -> tuple[Tensor, Tensor]:
    """Value; [R, 3] of cosine, |a|, |b|."""
    value, statistics = torch.ops.distill_core_cpu.match_forward(
        _laid(a, rule), _laid(b, rule), weights, *_options(rule)
    )
    return value, statistics


def with_gradient(
    a: Sequence[Tensor], b: Sequence[Tensor], weights: list[float], rule: Rule
) -> tuple[Tensor, Tensor, Tensor]:
    """What `forward` returns, and the gradient of all of `a`, flattened: both lists read once."""
    value, statistics, flat = torch.ops.distill_core_cpu.match_with_gradient(
        _laid(a, rule), _laid(b, rule), weights, *_options(rule)
    )
    return value, statistics, flat


def backward(
    upstream: Tensor, a: Sequence[Tensor], b: Sequence[Tensor], statistics: Tensor, weights: list[float], rule: Rule
) -> Tensor:
    """Gradient of all of `a`, flattened one after the other."""
    flat: Tensor = torch.ops.distill_core_cpu.match_backward(
        upstream.contiguous(), _laid(a, rule), _laid(b, rule), statistics, weights, *_options(rule)
    )
    return flat
