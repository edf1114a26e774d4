"""`support_logits` in C++: schemas of its raw kernels, and their calls.

Legend: N rows, C rows of a chunk, V vocabulary, K support, T temperatures, B blocks of a row.

The kernels take fp32, bf16 and fp16 logits with any row stride, read them in one sweep per row while the row is in
cache, and give fp32 statistics. Sums leave the support's columns out; nothing is added and subtracted again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .. import cpu_library
from ..dispatch import offer
from .reference import Statistics
from .tile import Cotangents

BLOCK_COLUMNS = 2048
"""`block_columns` of csrc/cpu/support_rows.h: columns that share one reference of their exponentials."""

offer("support_logits", "cpu", cpu_library.available, dtypes=cpu_library.DTYPES)
_COTANGENTS = "Tensor? support_grad, Tensor? tail_grad, Tensor? label_grad, Tensor? mean_grad"
cpu_library.define(
    "support_statistics(Tensor logits, Tensor ids, Tensor? labels, float[] temperatures, Tensor(a!) support,"
    " Tensor(b!) tail, Tensor(c!)? label, Tensor(d!)? mean, Tensor(e!)? entropy, Tensor(f!)? top1,"
    " Tensor(g!)? weights, Tensor(h!)? exponentials) -> ()",
    "support_gradient(Tensor logits, Tensor ids, Tensor? labels, float[] temperatures, float inverse_cap, float scale,"
    f" Tensor tail, Tensor? entropy, {_COTANGENTS}, Tensor? entropy_grad, Tensor(a!) out) -> ()",
    "rescale_exponentials_(Tensor(a!) exponentials, Tensor weights, Tensor ids, Tensor? labels, float temperature,"
    f" float scale, {_COTANGENTS}) -> ()",
)
_kernels = torch.ops.distill_core_cpu


class Support(NamedTuple):
    """A support as the kernels read it: int64, contiguous."""

    ids_NK: Tensor
    labels_N: Tensor | None


def support_of(ids_NK: Tensor, labels_N: Tensor | None) -> Support:
    """Converts ids and labels."""
    return Support(ids_NK.long().contiguous(), None if labels_N is None else labels_N.long().contiguous())


def _fp32(x: Tensor | None) -> Tensor | None:
    return None if x is None else x.float().contiguous()


def _asked(x: Tensor, wanted: bool) -> Tensor | None:
    return x if wanted else None


def statistics_into(
    out: Statistics,
    z_NV: Tensor,
    support: Support,
    temperatures: Sequence[float],
    extras: Sequence[str],
    exponentials: tuple[Tensor, Tensor] | None = None,
) -> None:
    """Fills `out`. With `exponentials = (weights_NB, e_NV)`, one temperature, also those; `e_NV` may be the logits."""
    weights_NB, e_NV = (None, None) if exponentials is None else exponentials
    _kernels.support_statistics(
        z_NV,
        support.ids_NK,
        support.labels_N,
        list(temperatures),
        out.support_NK,
        out.tail_NT,
        _asked(out.label_N, support.labels_N is not None),
        _asked(out.mean_N, "mean" in extras),
        _asked(out.entropy_NT, "entropy" in extras),
        _asked(out.top1_N, "top1" in extras),
        weights_NB,
        e_NV,
    )


def entropies(z_NV: Tensor, support: Support, temperatures: Sequence[float]) -> Tensor:
    """[N, T] entropies alone, for a backward pass that knows the tails."""
    n, t = z_NV.shape[0], len(temperatures)
    new = z_NV.new_empty
    out = Statistics(
        new(support.ids_NK.shape, dtype=torch.float32),
        new((n, t), dtype=torch.float32),
        new(0, dtype=torch.float32),
        new(0),
        new((n, t), dtype=torch.float32),
        new(0),
    )
    statistics_into(out, z_NV, Support(support.ids_NK, None), temperatures, ("entropy",))
    return out.entropy_NT


def gradient_into(
    out_NV: Tensor,
    z_NV: Tensor,
    support: Support,
    temperatures: Sequence[float],
    tail_NT: Tensor,
    entropy_NT: Tensor | None,
    cotangents: Cotangents,
    softcap: float | None = None,
    logit_scale: float = 1.0,
) -> None:
    """Gradient of the logits before cap and scale, in their dtype; `out_NV` may be `z_NV`."""
    up = Cotangents(*(_fp32(x) for x in cotangents))
    labelled = up.label_N is not None and support.labels_N is not None
    _kernels.support_gradient(
        z_NV,
        support.ids_NK,
        support.labels_N,
        list(temperatures),
        0.0 if softcap is None else 1.0 / softcap,
        logit_scale,
        tail_NT.contiguous(),
        entropy_NT,
        up.support_NK,
        up.tail_NT,
        up.label_N if labelled else None,
        up.mean_N,
        up.entropy_NT,
        out_NV,
    )


def rescale_(
    e_NV: Tensor,
    weights_NB: Tensor,
    support: Support,
    temperature: float,
    cotangents: Cotangents,
    logit_scale: float = 1.0,
) -> None:
    """Turns stored exponentials into the gradient, in place."""
    up = Cotangents(*(_fp32(x) for x in cotangents))
    labelled = up.label_N is not None and support.labels_N is not None
    _kernels.rescale_exponentials_(
        e_NV,
        weights_NB,
        support.ids_NK,
        support.labels_N,
        temperature,
        logit_scale,
        up.support_NK,
        up.tail_NT,
        up.label_N if labelled else None,
        up.mean_N,
    )


def new_weights(z_NV: Tensor) -> Tensor:
    """[N, B] uninitialised."""
    return z_NV.new_empty((z_NV.shape[0], -(-z_NV.shape[1] // BLOCK_COLUMNS)), dtype=torch.float32)
