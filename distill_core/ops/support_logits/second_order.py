"""The derivative of the gradient, chunk by chunk: what makes the ops twice differentiable.

Legend: C rows of a chunk, V vocabulary, D hidden, K support, T temperatures.

With `G = dL/d(h W^T + b)` the backward pass returns `dH = G W`, `dW = G^T H`, `db = sum G`. For cotangents X of dH,
Y of dW and y of db,

    <X, dH> + <Y, dW> + <y, db> = <G, M>,      M = X W^T + H Y^T + y,

and G depends on H, W, b through `pre = h W^T + b` alone. So one elementwise derivative `Hs = d<G, M> / d pre` and the
products `Hs W + G Y`, `Hs^T H + G^T X`, `sum Hs` finish the job, with no [N, V] tensor for all rows.

With `G = g slope`, `slope = dz / d pre`, `m = slope M`, c_t the softmax over the complement and q_t the full one:

    g       = g_S | g_label | g_mean / V | sum_t g_tail / t c_t | sum_t g_H / t (-q_t s_t),     s = log q + H
    <g, m>' = sum_t g_tail / t^2 c_t (m - <c_t, m>) - g_H / t^2 q_t [(m - <q_t, m>) (s_t + 1) - <q_t s_t, m>]
    Hs      = slope <g, m>' + g M slope'

and the derivatives for the cotangents are m on the support, m at the label, mean(m), <c_t, m> / t, -<q_t s_t, m> / t.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ..head import Head, WeightGradient
from ..row_chunks import default_rows, row_chunks
from .chunked import LinearSource, LogitsSource, Request, cut
from .reference import cap, log_softmax_rows, on_support
from .tile import Cotangents

# About this many [C, V] buffers are alive at once.
COPIES = 7


def _chunk(
    pre_CV: Tensor, request: Request, rows: slice, cotangents: Cotangents, m_CV: Tensor
) -> tuple[Tensor, Tensor, list[Tensor | None]]:
    """G, d<G, M> / d pre and d<G, M> / d cotangents of one chunk."""
    ids_CK = request.ids_NK[rows].long()
    z = cap(pre_CV, request.softcap, request.logit_scale)
    slope: Tensor | float = request.logit_scale
    if request.softcap is not None:
        slope = (1 - (z / request.softcap) ** 2) * request.logit_scale
    m = m_CV * slope
    # Column V takes the writes of padding and of ignored labels.
    vocabulary = z.shape[1]
    g = torch.zeros(z.shape[0], vocabulary + 1, dtype=z.dtype, device=z.device)
    m_wide = torch.cat([m, torch.zeros_like(m[:, :1])], dim=1)
    found: list[Tensor | None] = [None] * 5
    if cotangents.support_NK is not None:
        column_CK = torch.where(ids_CK < 0, vocabulary, ids_CK)
        g.scatter_(1, column_CK, cotangents.support_NK)
        found[0] = m_wide.gather(1, column_CK)
    if cotangents.label_N is not None and request.labels_N is not None:
        labels_C1 = request.labels_N[rows].long()[:, None]
        column_C1 = torch.where(labels_C1 < 0, vocabulary, labels_C1)
        g.scatter_add_(1, column_C1, cotangents.label_N[:, None])
        found[2] = m_wide.gather(1, column_C1).squeeze(1)
    g, curve = g[:, :vocabulary], torch.zeros_like(z)
    if cotangents.mean_N is not None:
        g += cotangents.mean_N[:, None] / vocabulary
        found[3] = m.mean(1)
    if cotangents.tail_NT is not None:
        rest = z.masked_fill(on_support(ids_CK, vocabulary), -math.inf)
        found[1] = _tails(rest, m, request.temperatures, cotangents.tail_NT, g, curve)
    if cotangents.entropy_NT is not None:
        found[4] = _entropies(z, m, request.temperatures, cotangents.entropy_NT, g, curve)
    hs = curve * slope
    if request.softcap is not None:
        hs += g * m_CV * (z * slope) * (-2 * request.logit_scale / request.softcap**2)
    return g * slope, hs, found


def _tails(
    rest: Tensor, m: Tensor, temperatures: Sequence[float], dtail_CT: Tensor, g: Tensor, curve: Tensor
) -> Tensor:
    columns = []
    for i, t in enumerate(temperatures):
        c, d_C1 = log_softmax_rows(rest / t).exp(), dtail_CT[:, i, None]
        mean_C1 = (c * m).sum(1, keepdim=True)
        g += c * (d_C1 / t)
        curve += c * (m - mean_C1) * (d_C1 / t**2)
        columns.append(mean_C1 / t)
    return torch.cat(columns, dim=1)


def _entropies(
    z: Tensor, m: Tensor, temperatures: Sequence[float], dentropy_CT: Tensor, g: Tensor, curve: Tensor
) -> Tensor:
    columns = []
    for i, t in enumerate(temperatures):
        logq = log_softmax_rows(z / t)
        q, d_C1 = logq.exp(), dentropy_CT[:, i, None]
        logq = logq.masked_fill(torch.isneginf(logq), 0.0)
        s = logq - (q * logq).sum(1, keepdim=True)
        qs = q * s
        mean_C1, slope_C1 = (q * m).sum(1, keepdim=True), (qs * m).sum(1, keepdim=True)
        g -= qs * (d_C1 / t)
        curve -= q * ((m - mean_C1) * (s + 1) - slope_C1) * (d_C1 / t**2)
        columns.append(-slope_C1 / t)
    return torch.cat(columns, dim=1)


def _collect(into: Sequence[Tensor], found: Sequence[Tensor | None], rows: slice) -> None:
    for whole, part in zip(into, found, strict=True):
        if whole.numel():
            whole[rows] = 0 if part is None else part


def _zeros(cotangents: Cotangents, like: Tensor) -> list[Tensor]:
    return [like.new_empty(0) if c is None else torch.zeros_like(c) for c in cotangents]


def _linear(head: Head, weight_VD: Tensor) -> Head:
    """Products with a weight alone, a 16-bit one upcast slab by slab."""
    return replace(head, weight_VD=weight_VD, bias_V=None, softcap=None, logit_scale=1.0)


def linear_double_backward(
    source: LinearSource,
    request: Request,
    cotangents: Cotangents,
    x_ND: Tensor | None,
    y_VD: Tensor | None,
    y_V: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
    """Gradients of hidden, weight, bias and cotangents of the scalar `<G, M>`."""
    head, hidden_ND = source.head, source.hidden_ND
    by_weight, by_y = _linear(head, head.weight_VD), None if y_VD is None else _linear(head, y_VD)
    dweight = WeightGradient(by_weight)
    by_weight, by_y = by_weight.laid_out(), None if by_y is None else by_y.laid_out()
    dhidden_ND = torch.empty_like(hidden_ND)
    dbias_V = hidden_ND.new_zeros(source.vocabulary, dtype=head.dtype)
    dcotangents = _zeros(cotangents, hidden_ND.new_empty(0, dtype=head.dtype))
    step = max(1, default_rows(source.vocabulary, head.dtype.itemsize) // COPIES)
    for rows in row_chunks(hidden_ND.shape[0], step):
        h_CD = hidden_ND[rows].to(head.dtype)
        x_CD = None if x_ND is None else x_ND[rows].to(head.dtype)
        pre_CV = by_weight.logits(h_CD)
        m_CV = torch.zeros_like(pre_CV) if x_CD is None else by_weight.logits(x_CD)
        if head.bias_V is not None:
            pre_CV += head.bias_V
        if by_y is not None:
            m_CV += by_y.logits(h_CD)
        if y_V is not None:
            m_CV += y_V
        g_CV, hs_CV, dgiven = _chunk(pre_CV, request, rows, cut(cotangents, rows), m_CV)
        dh_CD = torch.empty_like(h_CD)
        by_weight.gradients(hs_CV, h_CD, dh_CD, dweight)
        if by_y is not None:
            part_CD = torch.empty_like(h_CD)
            by_y.gradients(g_CV, h_CD, part_CD, None)
            dh_CD += part_CD
        dhidden_ND[rows] = dh_CD
        if x_CD is not None:
            by_weight.gradients(g_CV, x_CD, None, dweight)
        dbias_V += hs_CV.sum(0)
        _collect(dcotangents, dgiven, rows)
    bias_dtype = head.dtype if head.bias_V is None else head.bias_V.dtype
    return dhidden_ND, dweight.result(head.weight_VD.dtype), dbias_V.to(bias_dtype), dcotangents


def logits_double_backward(
    source: LogitsSource, request: Request, cotangents: Cotangents, x_NV: Tensor
) -> tuple[Tensor, list[Tensor]]:
    """Gradients of logits and cotangents of the scalar `<G, x>`."""
    dlogits_NV = torch.empty_like(source.logits_NV, memory_format=torch.contiguous_format)
    dcotangents = _zeros(cotangents, x_NV.new_empty(0, dtype=source.dtype))
    step = max(1, default_rows(source.vocabulary, source.dtype.itemsize) // COPIES)
    for rows in row_chunks(source.logits_NV.shape[0], step):
        x_CV = x_NV[rows].to(source.dtype)
        _, hs_CV, dgiven = _chunk(source.logits(rows), request, rows, cut(cotangents, rows), x_CV)
        dlogits_NV[rows] = hs_CV
        _collect(dcotangents, dgiven, rows)
    return dlogits_NV, dcotangents
