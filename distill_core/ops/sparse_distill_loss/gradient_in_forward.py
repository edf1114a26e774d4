"""The schedule with the gradient in the forward pass: three matrix products, one chunk of logits alive at a time.

Legend: N rows, C rows of a chunk, V vocabulary, D hidden, K support.

Per chunk: `z = h W^T`; support logits; `loss_fn` and its gradient on [C, K+1] numbers; `dz` over the tile; `dh = dz W`;
`dW += dz^T h`. Recomputing in the backward pass needs a fourth product.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..autocast import exact_arithmetic
from ..head import WeightGradient
from ..support_logits import SupportLogits
from ..support_logits.chunked import LinearSource, Request, rows_of
from ..support_logits.reference import Statistics
from ..support_logits.tile import Cotangents
from .captured import Watch
from .reference import LossFn


@dataclass(frozen=True)
class Needs:
    """Which gradients are taken. `recording`: the caller has gradients enabled, so undeclared tensors are an error."""

    recording: bool
    hidden: bool
    weight: bool
    bias: bool
    params: tuple[bool, ...] = ()

    @property
    def logits(self) -> bool:
        return self.hidden or self.weight or self.bias


@dataclass
class Totals:
    """Sums over the chunks done so far; gradients accumulate in fp32 (fp64 for fp64 inputs)."""

    loss: Tensor
    hidden_ND: Tensor | None
    weight: WeightGradient | None
    bias_V: Tensor | None
    params: list[Tensor | None]
    weight_VD: Tensor | None = None

    def in_dtype_of(self, hidden: Tensor, weight: Tensor, bias: Tensor | None, params: Sequence[Tensor]) -> Totals:
        """The one rounding, at the end."""

        def like(x: Tensor | None, model: Tensor | None) -> Tensor | None:
            return None if x is None or model is None else x.to(model.dtype)

        self.weight_VD = None if self.weight is None else self.weight.result(weight.dtype)
        self.weight = None
        self.hidden_ND = like(self.hidden_ND, hidden)
        self.bias_V = like(self.bias_V, bias)
        self.params = [like(x, p) for x, p in zip(self.params, params, strict=True)]
        return self


def walk(
    source: LinearSource,
    request: Request,
    loss_fn: LossFn,
    params: Sequence[Tensor],
    needs: Needs,
    rows_per_chunk: int | None,
) -> Totals:
    """Loss and gradients of all rows."""
    hidden_ND, weight_VD, bias_V = source.hidden_ND, source.head.weight_VD, source.head.bias_V
    wide = source.dtype
    totals = Totals(
        hidden_ND.new_zeros((), dtype=torch.float64),
        torch.empty_like(hidden_ND) if needs.hidden else None,
        WeightGradient(source.head) if needs.weight else None,
        torch.zeros_like(bias_V, dtype=wide) if needs.bias and bias_V is not None else None,
        [torch.zeros_like(p, dtype=torch.promote_types(p.dtype, torch.float32)) if need else None
         for p, need in zip(params, needs.params, strict=True)],
    )  # fmt: skip
    with exact_arithmetic(hidden_ND):
        chunks = rows_of(source, rows_per_chunk)
        laid_out, scratch_CV = source.laid_out(), source.scratch(chunks)
        for rows in chunks:
            _walk_chunk(laid_out, request, loss_fn, params, needs, rows, totals, scratch_CV)
        del scratch_CV  # before the weight's gradient is rounded into a second buffer
    return totals.in_dtype_of(hidden_ND, weight_VD, bias_V, params)


def _walk_chunk(
    source: LinearSource,
    request: Request,
    loss_fn: LossFn,
    params: Sequence[Tensor],
    needs: Needs,
    rows: slice,
    totals: Totals,
    scratch_CV: Tensor | None,
) -> None:
    tile = request.tile(source.logits(rows, scratch_CV), rows)
    found = tile.statistics(gradient=needs.logits)
    cotangents, dparams = _loss_gradient(found, request, loss_fn, params, needs, rows, totals)
    for total, part in zip(totals.params, dparams, strict=True):
        if total is not None and part is not None:
            total += part
    if cotangents is None:
        if totals.hidden_ND is not None:
            totals.hidden_ND[rows] = 0
        return
    dpre_CV = tile.gradient_(cotangents)
    dhidden_CD = None if totals.hidden_ND is None else totals.hidden_ND[rows]
    source.head.gradients(dpre_CV, source.hidden_ND[rows], dhidden_CD, totals.weight)
    if totals.bias_V is not None:
        totals.bias_V += dpre_CV.sum(0)


def _loss_gradient(
    found: Statistics,
    request: Request,
    loss_fn: LossFn,
    params: Sequence[Tensor],
    needs: Needs,
    rows: slice,
    totals: Totals,
) -> tuple[Cotangents | None, list[Tensor | None]]:
    """Adds the chunk's loss to `totals`; returns its gradient on the statistics (None: all 0) and on `params`."""
    with torch.set_grad_enabled(needs.recording):
        leaves = [x.detach().requires_grad_(needs.logits) if x.numel() else None for x in found[:5]]
        support = _as_support(leaves, found, request, rows)
        watch = Watch() if needs.recording else None
        loss_n = loss_fn(support, rows)
        _check_loss(loss_n, rows.stop - rows.start)
        totals.loss += loss_n.detach().sum(dtype=torch.float64)
        if watch is None or not loss_n.requires_grad:
            return None, [None] * len(params)
        inputs = [x for x in leaves if x is not None and needs.logits]
        wanted = [p for p, need in zip(params, needs.params, strict=True) if need]
        watch.check(loss_n, [*inputs, *wanted])
        grads = iter(
            torch.autograd.grad(loss_n, [*inputs, *wanted], torch.ones_like(loss_n), allow_unused=True)
            if inputs or wanted
            else ()
        )
    fields = [next(grads) if x is not None and needs.logits else None for x in leaves]
    dparams = [next(grads) if need else None for need in needs.params]
    return (Cotangents(*fields) if any(g is not None for g in fields) else None), dparams


def _as_support(leaves: Sequence[Tensor | None], found: Statistics, request: Request, rows: slice) -> SupportLogits:
    support_CK, tail_CT, label_C, mean_C, entropy_CT = leaves
    return SupportLogits(
        ids_NK=request.ids_NK[rows],
        temperatures=tuple(request.temperatures),
        support_NK=found.support_NK if support_CK is None else support_CK,
        tail_NT=found.tail_NT if tail_CT is None else tail_CT,
        label_N=label_C,
        labels_N=None if request.labels_N is None else request.labels_N[rows],
        mean_N=mean_C,
        entropy_NT=entropy_CT,
        top1_N=found.top1_N if "top1" in request.extras else None,
    )


def _check_loss(loss_n: object, n: int) -> None:
    if not isinstance(loss_n, Tensor):
        raise TypeError(
            f"sparse_distill_loss: loss_fn must return a tensor [n] of per-row losses; got {type(loss_n).__name__}"
        )
    if loss_n.shape != (n,):
        raise ValueError(
            f"sparse_distill_loss: loss_fn must return one loss per row, shape [{n}] for this chunk; got "
            f"{list(loss_n.shape)}; do not reduce over rows, and cut what belongs to rows by the `rows` argument"
        )
    if not loss_n.is_floating_point():
        raise TypeError(f"sparse_distill_loss: loss_fn must return floating-point losses; got {loss_n.dtype}")
