"""One tile of logits, consumed in place: first its statistics, then its gradient, with one exponential per element.

Legend: C rows of a chunk, V vocabulary, K support, T temperatures.

    dz_v = g_S[v]                                     v on the support
    dz_v = sum_t g_tail[t] / t * exp(z_v / t - tail_t)     elsewhere

plus the label's, the mean's and the entropy's part. The support is overwritten by -inf once it has been read, so that
the complement's softmax vanishes there by itself. The equal form with the full softmax, `u_v + s q_v`, cancels in fp32
when the tail is small (23 % of the gradient at a tail of 1e-6) and is never used.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from .reference import Statistics


class Cotangents(NamedTuple):
    """Gradients with respect to the differentiable fields of `Statistics`; None means 0."""

    support_NK: Tensor | None
    tail_NT: Tensor | None
    label_N: Tensor | None = None
    mean_N: Tensor | None = None
    entropy_NT: Tensor | None = None


class Asked(NamedTuple):
    """What is asked of one tile: its rows' support and labels, and the options of the whole pass."""

    ids_CK: Tensor
    labels_C: Tensor | None
    temperatures: Sequence[float]
    extras: Sequence[str]
    softcap: float | None
    logit_scale: float


class RowTile(Protocol):
    """Logits of a chunk of rows, owned and destroyed: `statistics()` or `restore()`, then `gradient_()`, once each."""

    def __init__(self, z_CV: Tensor, asked: Asked) -> None: ...

    def statistics(self, *, gradient: bool = True) -> Statistics:
        """Read everything off the tile; `gradient` says whether `gradient_()` is to follow."""
        ...

    def restore(self, tail_CT: Tensor) -> None:
        """In place of `statistics()` when the tails are known from the forward pass."""
        ...

    def gradient_(self, cotangents: Cotangents) -> Tensor:
        """Gradient with respect to `h W^T + b`, [C, V]; written over the tile where possible."""
        ...


class Tile:
    """A `RowTile` in plain torch, fp32 or fp64, on any device."""

    def __init__(self, z_CV: Tensor, asked: Asked) -> None:
        ids_CK, labels_C, temperatures, extras, softcap, logit_scale = asked
        self._z = z_CV
        self._temperatures = temperatures
        self._extras = extras
        self._softcap = softcap
        self._scale = logit_scale
        self._real_CK = ids_CK >= 0
        start_C1 = torch.arange(z_CV.shape[0], device=z_CV.device)[:, None] * z_CV.shape[1]
        self._at_support = (ids_CK + start_C1)[self._real_CK]
        self._labelled_C = None if labels_C is None else labels_C >= 0
        self._at_label = None if labels_C is None else (labels_C + start_C1.squeeze(1))[labels_C >= 0]
        # The scaled exponentials may replace the logits when nothing needs the logits again.
        self._one_exp = len(temperatures) == 1 and softcap is None and "entropy" not in extras
        self._top_C1: Tensor | None = None

    def statistics(self, *, gradient: bool = True) -> Statistics:
        """Leaves the complement's logits (or their exponentials) in the tile, whether a gradient follows or not."""
        z, flat = self._z, self._z.view(-1)
        nothing = z.new_empty(0)
        support_CK = z.new_full(self._real_CK.shape, -math.inf)
        support_CK[self._real_CK] = flat[self._at_support]
        label_C = nothing
        if self._at_label is not None and self._labelled_C is not None:
            label_C = z.new_zeros(z.shape[0])
            label_C[self._labelled_C] = flat[self._at_label]
        self._label_C = label_C
        mean_C = z.mean(1) if "mean" in self._extras else nothing
        top1_C = z.argmax(1) if "top1" in self._extras else nothing.long()
        flat.index_fill_(0, self._at_support, -math.inf)
        self._support_CK = support_CK
        self._tail_CT = self._one_exp_tail() if self._one_exp else self._tails()
        self._entropy_CT = self._entropies() if "entropy" in self._extras else nothing
        return Statistics(support_CK, self._tail_CT, label_C, mean_C, self._entropy_CT, top1_C)

    def _one_exp_tail(self) -> Tensor:
        t = self._temperatures[0]
        if t != 1.0:
            self._z.div_(t)
        self._top_C1 = _finite_top(self._z)
        self._sum_C1 = self._z.sub_(self._top_C1).exp_().sum(1, keepdim=True)
        return self._sum_C1.log() + self._top_C1

    def _tails(self) -> Tensor:
        columns = []
        for t in self._temperatures:
            scaled_CV = self._z / t
            top_C1 = _finite_top(scaled_CV)
            columns.append(scaled_CV.sub_(top_C1).exp_().sum(1, keepdim=True).log() + top_C1)
        return torch.cat(columns, dim=1)

    def _entropies(self) -> Tensor:
        columns = []
        for i, t in enumerate(self._temperatures):
            lse_C1 = self._lse(i)
            rest_C = torch.special.entr((self._z / t).sub_(lse_C1).exp_()).sum(1)
            columns.append(rest_C + torch.special.entr((self._support_CK / t - lse_C1).exp()).sum(1))
        return torch.stack(columns, dim=1)

    def _lse(self, i: int) -> Tensor:
        """Full logsumexp; 0 for a row with nothing possible, whose probabilities then read 0."""
        scaled_CK1 = torch.cat([self._support_CK / self._temperatures[i], self._tail_CT[:, i, None]], dim=1)
        lse_C1 = torch.logsumexp(scaled_CK1, dim=1, keepdim=True)
        return lse_C1.masked_fill_(torch.isneginf(lse_C1), 0.0)

    def restore(self, tail_CT: Tensor) -> None:
        """In place of `statistics()` when the tails are known from the forward pass: reads the support, masks it."""
        flat = self._z.view(-1)
        self._support_CK = self._z.new_full(self._real_CK.shape, -math.inf)
        self._support_CK[self._real_CK] = flat[self._at_support]
        self._label_C = self._z.new_zeros(self._z.shape[0])
        if self._at_label is not None and self._labelled_C is not None:
            self._label_C[self._labelled_C] = flat[self._at_label]
        flat.index_fill_(0, self._at_support, -math.inf)
        self._tail_CT = tail_CT
        self._one_exp = False
        if "entropy" in self._extras:
            self._entropy_CT = self._entropies()

    def gradient_(self, cotangents: Cotangents) -> Tensor:
        """Gradient with respect to `h W^T + b`, [C, V]; written over the tile where possible."""
        dz = self._complement_gradient(cotangents.tail_NT)
        dsupport_CK = cotangents.support_NK
        dsupport_CK = torch.zeros_like(self._support_CK) if dsupport_CK is None else dsupport_CK
        if cotangents.entropy_NT is not None:
            dz, dsupport_CK = self._add_entropy(dz, dsupport_CK, cotangents.entropy_NT)
        if cotangents.mean_N is not None:
            mean_C1 = cotangents.mean_N[:, None] / dz.shape[1]
            dz += mean_C1
            dsupport_CK = dsupport_CK + mean_C1
        if self._softcap is not None:
            dz *= self._slope(self._z)
        flat = dz.view(-1)
        flat[self._at_support] = (dsupport_CK * self._slope(self._support_CK))[self._real_CK]
        if self._softcap is None and self._scale != 1.0:
            dz *= self._scale
        if cotangents.label_N is not None and self._at_label is not None and self._labelled_C is not None:
            scale = self._scale if self._softcap is None else 1.0
            dlabel_C = cotangents.label_N * self._slope(self._label_C) * scale
            flat.index_add_(0, self._at_label, dlabel_C[self._labelled_C])
        return dz

    def _slope(self, z: Tensor) -> Tensor | float:
        """dz / d(h W^T + b) under a soft cap; the plain scale is applied to the whole tile at the end."""
        return 1.0 if self._softcap is None else (1 - (z / self._softcap) ** 2) * self._scale

    def _complement_gradient(self, dtail_CT: Tensor | None) -> Tensor:
        if dtail_CT is None:
            return torch.zeros_like(self._z)
        if self._one_exp:
            some_C1 = torch.where(self._sum_C1 == 0, 1.0, self._sum_C1)
            factor_C1 = torch.where(self._sum_C1 == 0, 0.0, dtail_CT / (some_C1 * self._temperatures[0]))
            return self._z.mul_(factor_C1)
        dz: Tensor | None = None
        for i, t in enumerate(self._temperatures):
            empty_C1 = torch.isneginf(self._tail_CT[:, i, None])
            tail_C1 = self._tail_CT[:, i, None].masked_fill(empty_C1, 0.0)
            part = (self._z / t).sub_(tail_C1).exp_()
            part *= torch.where(empty_C1, 0.0, dtail_CT[:, i, None] / t)
            dz = part if dz is None else dz.add_(part)
        assert dz is not None
        return dz

    def _add_entropy(self, dz: Tensor, dsupport_CK: Tensor, dentropy_CT: Tensor) -> tuple[Tensor, Tensor]:
        """dH / d(z_v / t) = -q_v (log q_v + H)."""
        for i, t in enumerate(self._temperatures):
            lse_C1, entropy_C1 = self._lse(i), self._entropy_CT[:, i, None]
            factor_C1 = dentropy_CT[:, i, None] / t
            for z, into in ((self._z, dz), (self._support_CK, None)):
                logq = z / t - lse_C1
                slope = logq.exp().mul_(logq.masked_fill_(torch.isneginf(logq), 0.0).add_(entropy_C1)).mul_(-factor_C1)
                if into is None:
                    dsupport_CK = dsupport_CK + slope
                else:
                    into += slope
        return dz, dsupport_CK


def _finite_top(x_CV: Tensor) -> Tensor:
    """Row maximum, 0 where a row is all -inf."""
    top_C1 = x_CV.amax(1, keepdim=True)
    return top_C1.masked_fill_(torch.isneginf(top_C1), 0.0)
