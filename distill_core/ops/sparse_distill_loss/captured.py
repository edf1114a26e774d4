"""Finds tensors that a loss function uses without having declared them.

The gradient is taken inside the forward pass, chunk by chunk, so a tensor that needs gradient must be an argument of
the op. One that `loss_fn` merely closes over would get no gradient, silently; this walk over the chunk's autograd graph
turns that into an error.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


class Watch:
    """Created just before `loss_fn` runs; graph nodes older than it were made outside."""

    def __init__(self) -> None:
        with torch.enable_grad():
            mark = torch.zeros(1, requires_grad=True) + 0
        assert mark.grad_fn is not None
        self._born = mark.grad_fn._sequence_nr()

    def check(self, loss_n: Tensor, inputs: Sequence[Tensor]) -> None:
        """Raises `ValueError` if `loss_n` depends on a tensor that needs gradient and is not one of `inputs`."""
        leaves = {id(x) for x in inputs if x.grad_fn is None}
        edges = {(x.grad_fn, x.output_nr) for x in inputs if x.grad_fn is not None}
        stack: list[tuple[Any, int]] = [(loss_n.grad_fn, loss_n.output_nr)]
        seen: set[tuple[Any, int]] = set()
        while stack:
            node, output = stack.pop()
            if node is None or (node, output) in seen or (node, output) in edges:
                continue
            seen.add((node, output))
            variable = getattr(node, "variable", None)
            if variable is not None:
                if id(variable) not in leaves:
                    self._refuse(f"a leaf tensor of shape {list(variable.shape)}")
                continue
            if node._sequence_nr() < self._born:
                self._refuse(f"a tensor computed before the call ({node.name()})")
            stack.extend(node.next_functions)

    @staticmethod
    def _refuse(what: str) -> None:
        raise ValueError(
            f"sparse_distill_loss: loss_fn uses {what} that requires grad but is not in `params`: its gradient would "
            f"be lost; pass that very tensor in params=(...), or detach it"
        )
