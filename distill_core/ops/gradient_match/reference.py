"""Gradient matching in plain torch: value, gradient and the gradient's derivative, statistics in fp64.

Legend: L tensors in a list, R rows (or tensors, or 1: see `group`); a synthetic gradient, b real gradient, x cotangent.

    D = sum_r w_r (1 - ab_r / den_r)     ab = <a_r, b_r>, den = max(|a|, eps) max(|b|, eps)  or  |a| |b| + eps
    dD/da_r = w_r (alpha_r b_r + beta_r a_r)     alpha = dD/d(ab), beta = 2 dD/d(|a|^2)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..head import compute_dtype

Tensors = Sequence[Tensor]


class Rule(NamedTuple):
    """What is compared, and how."""

    distance: str
    group: str
    eps: float
    eps_mode: str


class Coefficients(NamedTuple):
    """alpha, beta and their derivatives by ab and by |a|^2 (`alpha` does not depend on ab), each [R] fp64."""

    alpha: Tensor
    beta: Tensor
    alpha_aa: Tensor
    beta_ab: Tensor
    beta_aa: Tensor


def as_rows(x: Tensor, group: str) -> Tensor:
    """[rows, columns]: a weight by its first dimension, a vector as one row; everything else as one row too."""
    if group == "row" and x.dim() > 1:
        return x.reshape(x.shape[0], math.prod(x.shape[1:]))
    return x.reshape(1, x.numel())


def moments(a: Tensors, b: Tensors, weights: Sequence[float], group: str) -> Tensor:
    """[R, 3] fp64: <a, b>, <a, a>, <b, b>; in a global group the weighted sums over tensors."""
    parts = []
    for x, y in zip(a, b, strict=True):
        p, q = as_rows(x, group).double(), as_rows(y, group).double()
        parts.append(torch.stack([(p * q).sum(1), (p * p).sum(1), (q * q).sum(1)], dim=1))
    if group == "global":
        return torch.stack([w * m for w, m in zip(weights, parts, strict=True)]).sum(0)
    return torch.cat(parts)


def row_counts(a: Tensors, group: str) -> list[int]:
    """Rows of each tensor."""
    return [x.shape[0] if group == "row" and x.dim() > 1 else 1 for x in a]


def row_weights(a: Tensors, weights: Sequence[float], group: str) -> Tensor:
    """[R] fp64: weight of each row; 1 in a global group, whose moments are weighted already."""
    if group == "global":
        return a[0].new_ones(1, dtype=torch.float64)
    counts = row_counts(a, group)
    return torch.cat([a[0].new_full((n,), w, dtype=torch.float64) for n, w in zip(counts, weights, strict=True)])


def statistics_rows(a: Tensors, rule: Rule) -> int:
    """Length of the statistics that the forward pass keeps."""
    if rule.distance != "cosine":
        return 0
    return 1 if rule.group == "global" else sum(row_counts(a, rule.group))


def _denominator(na: Tensor, nb: Tensor, rule: Rule) -> Tensor:
    return na * nb + rule.eps if rule.eps_mode == "added" else na.clamp_min(rule.eps) * nb.clamp_min(rule.eps)


def forward(a: Tensors, b: Tensors, weights: Sequence[float], rule: Rule) -> tuple[Tensor, Tensor]:
    """Value, and [R, 3] of cosine, |a|, |b| for the backward pass (nothing for the other distances)."""
    dtype = compute_dtype(*a)
    if rule.distance != "cosine":
        value = a[0].new_zeros((), dtype=torch.float64)
        for x, y, w in zip(a, b, weights, strict=True):
            difference = x.double() - y.double()
            value += w * (difference * difference).sum()
            if rule.distance == "l2+l1":
                value += w * difference.abs().sum()
        return value.to(dtype), a[0].new_empty(0, 3, dtype=dtype)
    return from_moments(moments(a, b, weights, rule.group), row_weights(a, weights, rule.group), rule, dtype)


def from_moments(moments_R3: Tensor, weights_R: Tensor, rule: Rule, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Value of the cosine, and [R, 3] of cosine, |a|, |b|, from the sums of each row."""
    ab, aa, bb = moments_R3.unbind(1)
    na, nb = aa.sqrt(), bb.sqrt()
    distance = 1 - ab / _denominator(na, nb, rule)
    if rule.eps_mode == "clamp":
        distance = distance.masked_fill((na == 0) & (nb == 0), 0.0)
    value = (weights_R * distance).sum()
    product = na * nb
    cosine = ab / torch.where(product == 0, 1.0, product)
    return value.to(dtype), torch.stack([cosine, na, nb], dim=1).to(dtype)


def coefficients(cosine: Tensor, na: Tensor, nb: Tensor, rule: Rule) -> Coefficients:
    """Derivatives of a row's distance. All are 0 where |a| = 0: a zero row has no direction."""
    zero = na == 0
    n = na.masked_fill(zero, 1.0)
    den = _denominator(n, nb, rule)
    alpha = -1 / den
    if rule.eps_mode == "added":
        beta_ab = nb / (n * den * den)
        beta = cosine * nb * nb / (den * den)
        beta_aa = -beta * (0.5 / (n * n) + nb / (n * den))
    else:
        beta_ab = (1 / (n * n * den)).masked_fill(n <= rule.eps, 0.0)
        beta = cosine * n * nb * beta_ab
        beta_aa = -1.5 * beta / (n * n)
    found = (alpha, beta, beta_ab / 2, beta_ab, beta_aa)
    return Coefficients(*(c.masked_fill(zero, 0.0) for c in found))


def _spread(per_row: Tensor, a: Tensors, group: str) -> list[Tensor]:
    """One [rows, 1] column per tensor."""
    if group == "global":
        return [per_row[:, None]] * len(a)
    return [column[:, None] for column in per_row.split_with_sizes(row_counts(a, group))]


def backward(
    upstream: Tensor, a: Tensors, b: Tensors, statistics: Tensor, weights: Sequence[float], rule: Rule
) -> Tensor:
    """Gradient of all synthetic tensors, flattened one after the other."""
    flat = a[0].new_empty(sum(x.numel() for x in a))
    into = flat.split_with_sizes([x.numel() for x in a])
    g = upstream.double()
    if rule.distance != "cosine":
        for x, y, w, part in zip(a, b, weights, into, strict=True):
            difference = (x.double() - y.double()).reshape(-1)
            slope = 2 * difference + (difference.sign() if rule.distance == "l2+l1" else 0)
            part.copy_(g * w * slope)
        return flat
    cosine, na, nb = statistics.double().unbind(1)
    c = coefficients(cosine, na, nb, rule)
    alphas, betas = _spread(c.alpha, a, rule.group), _spread(c.beta, a, rule.group)
    for x, y, w, part, alpha, beta in zip(a, b, weights, into, alphas, betas, strict=True):
        slope = alpha * as_rows(y, rule.group).double() + beta * as_rows(x, rule.group).double()
        part.copy_((g * w * slope).reshape(-1))
    return flat


def double_backward(
    upstream: Tensor, a: Tensors, b: Tensors, x: Tensor, weights: Sequence[float], rule: Rule
) -> tuple[Tensor, Tensor]:
    """Derivatives of `<x, backward(...)>` by `upstream` and by the synthetic tensors (flattened)."""
    sizes = [p.numel() for p in a]
    cotangents = [part.view(p.shape) for part, p in zip(x.split_with_sizes(sizes), a, strict=True)]
    flat = a[0].new_empty(sum(sizes))
    into = flat.split_with_sizes(sizes)
    g = upstream.double()
    if rule.distance != "cosine":
        total = g.new_zeros(())
        for p, q, z, w, part in zip(a, b, cotangents, weights, into, strict=True):
            difference = p.double() - q.double()
            slope = 2 * difference + (difference.sign() if rule.distance == "l2+l1" else 0)
            total += w * (z.double() * slope).sum()
            part.copy_((2 * w * g * z.double()).reshape(-1))
        return total.to(upstream.dtype), flat
    ab, aa, bb = moments(a, b, weights, rule.group).unbind(1)
    na, nb = aa.sqrt(), bb.sqrt()
    product = na * nb
    c = coefficients(ab / torch.where(product == 0, 1.0, product), na, nb, rule)
    ax = moments(a, cotangents, weights, rule.group)[:, 0]
    bx = moments(b, cotangents, weights, rule.group)[:, 0]
    total = (row_weights(a, weights, rule.group) * (c.alpha * bx + c.beta * ax)).sum()
    by_b = c.beta_ab * ax
    by_a = 2 * (c.alpha_aa * bx + c.beta_aa * ax)
    columns = zip(*(_spread(v, a, rule.group) for v in (by_b, by_a, c.beta)), strict=True)
    for p, q, z, w, part, (to_b, to_a, to_x) in zip(a, b, cotangents, weights, into, columns, strict=True):
        p_, q_, z_ = (as_rows(v, rule.group).double() for v in (p, q, z))
        part.copy_((g * w * (to_b * q_ + to_a * p_ + to_x * z_)).reshape(-1))
    return total.to(upstream.dtype), flat
