"""Lists of gradients for tests of `gradient_match`: made at random, and their distance by definition in fp64."""

from __future__ import annotations

import torch

from distill_core import ops

IMPLS = ("reference", "cpu")
DISTANCES = ("cosine", "l2", "l2+l1")
GROUPS = ("row", "tensor", "global")
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def by_definition(synthetic, real, *, distance, group, eps, eps_mode, weights=None, include_vectors=False):
    """Row by row, from the formula, differentiable by autograd."""
    weights = weights or [1.0] * len(synthetic)
    pairs = []  # (a, b, weight of the vector, weight inside the inner product)
    for a, b, w in zip(synthetic, real, weights, strict=True):
        if group == "row" and a.dim() > 1:
            pairs += [(x.reshape(-1), y.reshape(-1), w) for x, y in zip(a, b, strict=True)]
        elif group != "row" or include_vectors:
            pairs.append((a.reshape(-1), b.reshape(-1), w))
    if distance != "cosine":
        total = sum((w * ((a - b) ** 2).sum() for a, b, w in pairs), torch.zeros((), dtype=torch.float64))
        return total + sum(w * (a - b).abs().sum() for a, b, w in pairs) if distance == "l2+l1" else total
    if group == "global" and pairs:
        a, b = (torch.cat([p[i] * p[2] ** 0.5 for p in pairs]) for i in (0, 1))
        pairs = [(a, b, 1.0)]
    total = torch.zeros((), dtype=torch.float64)
    for a, b, w in pairs:
        na, nb = a.norm(), b.norm()
        if eps_mode == "clamp" and not na and not nb:
            continue
        den = na * nb + eps if eps_mode == "added" else max(na, torch.tensor(eps)) * max(nb, torch.tensor(eps))
        total = total + w * (1 - (a * b).sum() / den)
    return total


def make(shapes, dtype=torch.float32, seed=0, alike=0.3, zero_rows=False, scale=1.0):
    """Two lists of gradients that resemble each other; with `zero_rows`, zero rows on either side and on both."""
    g = torch.Generator().manual_seed(seed)
    real = [torch.randn(s, generator=g, dtype=torch.float64) * scale for s in shapes]
    synthetic = [alike * b + torch.randn(b.shape, generator=g, dtype=torch.float64) * scale for b in real]
    if zero_rows:
        for a, b in zip(synthetic, real, strict=True):
            if a.dim() > 1 and a.shape[0] > 2:
                a[0] = b[0] = 0
                a[1] = 0
                b[2] = 0
    return [a.to(dtype).requires_grad_() for a in synthetic], [b.to(dtype) for b in real]


def truth(synthetic, real, upstream=1.0, **options):
    a = [x.detach().double().requires_grad_() for x in synthetic]
    value = by_definition(a, [x.double() for x in real], **options)
    grads = torch.autograd.grad(value * upstream, a, allow_unused=True) if value.requires_grad else [None] * len(a)
    return value.detach(), [torch.zeros_like(x) if g is None else g for x, g in zip(a, grads, strict=True)]


def measured(synthetic, real, upstream=1.0, **options):
    value = ops.gradient_match(synthetic, real, **options)
    grads = torch.autograd.grad(value * upstream, synthetic, allow_unused=True)
    return value, [torch.zeros_like(x) if g is None else g for x, g in zip(synthetic, grads, strict=True)]
