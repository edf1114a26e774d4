"""`Tile` on the Triton row kernels: the same interface, the gradient written over the tile in one pass.

Legend: C rows of a chunk, V vocabulary, K support, T temperatures.
"""

from __future__ import annotations

from torch import Tensor

from .chunked import LogitsSource, Request
from .reference import Statistics
from .tile import Asked, Cotangents
from .triton import forward, gradient_into


class TritonTile:
    """A `RowTile` of contiguous fp32 logits."""

    def __init__(self, z_CV: Tensor, asked: Asked) -> None:
        self._z = z_CV
        self._request = Request(*asked)

    def statistics(self, *, gradient: bool = True) -> Statistics:
        """Read everything off the tile, which is left as it is."""
        out = forward(LogitsSource(self._z), self._request)
        self._tail_CT = out.tail_NT
        return out

    def restore(self, tail_CT: Tensor) -> None:
        """In place of `statistics()` when the tails are known from the forward pass."""
        self._tail_CT = tail_CT

    def gradient_(self, cotangents: Cotangents) -> Tensor:
        """Gradient with respect to `h W^T + b`, [C, V], written over the tile."""
        gradient_into(self._z, LogitsSource(self._z), self._request, self._tail_CT, cotangents)
        return self._z
