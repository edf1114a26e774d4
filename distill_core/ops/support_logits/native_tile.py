"""`Tile` on the C++ kernels: the same interface, one sweep per row, nothing of the tile's size beside the tile.

Legend: C rows of a chunk, V vocabulary, K support, T temperatures, B blocks of a row.
"""

from __future__ import annotations

import torch
from torch import Tensor

from . import native
from .reference import Statistics
from .tile import Asked, Cotangents


class NativeTile:
    """A `RowTile` of contiguous fp32 logits on the CPU."""

    def __init__(self, z_CV: Tensor, asked: Asked) -> None:
        if z_CV.dtype != torch.float32 or not z_CV.is_contiguous():
            raise ValueError(f"NativeTile: z_CV must be contiguous float32; got {z_CV.dtype}, strides {z_CV.stride()}")
        self._z = z_CV
        self._support = native.support_of(asked.ids_CK, asked.labels_C)
        self._temperatures, self._extras = asked.temperatures, asked.extras
        self._softcap, self._scale = asked.softcap, asked.logit_scale
        self._weights_CB: Tensor | None = None
        self._entropy_CT: Tensor | None = None

    def statistics(self, *, gradient: bool = True) -> Statistics:
        """Read everything off the tile.

        Scaled exponentials replace the logits where a `gradient_()` is to follow and nothing needs the logits later.
        """
        z, (c, t) = self._z, (self._z.shape[0], len(self._temperatures))
        entropy = "entropy" in self._extras
        out = Statistics(
            z.new_empty(self._support.ids_NK.shape),
            z.new_empty(c, t),
            z.new_empty(0 if self._support.labels_N is None else c),
            z.new_empty(c if "mean" in self._extras else 0),
            z.new_empty(c, t) if entropy else z.new_empty(0),
            z.new_empty(c if "top1" in self._extras else 0, dtype=torch.int64),
        )
        exponentials = None
        if gradient and t == 1 and self._softcap is None and not entropy:
            self._weights_CB = native.new_weights(z)
            exponentials = self._weights_CB, z
        native.statistics_into(out, z, self._support, self._temperatures, self._extras, exponentials)
        self._tail_CT = out.tail_NT
        self._entropy_CT = out.entropy_NT if entropy else None
        return out

    def restore(self, tail_CT: Tensor) -> None:
        """In place of `statistics()` when the tails are known from the forward pass."""
        self._tail_CT = tail_CT
        if "entropy" in self._extras:
            self._entropy_CT = native.entropies(self._z, self._support, self._temperatures)

    def gradient_(self, cotangents: Cotangents) -> Tensor:
        """Gradient with respect to `h W^T + b`, [C, V], written over the tile."""
        if self._weights_CB is None:
            native.gradient_into(
                self._z,
                self._z,
                self._support,
                self._temperatures,
                self._tail_CT,
                self._entropy_CT,
                cotangents,
                self._softcap,
                self._scale,
            )
        else:
            native.rescale_(self._z, self._weights_CB, self._support, self._temperatures[0], cotangents, self._scale)
        return self._z
