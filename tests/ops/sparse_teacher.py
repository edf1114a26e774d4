"""A dense random teacher seen through a support, and KL divergences row by row from their formulas."""

from __future__ import annotations

import math

import torch

MODES = ("tail", "truncated", "renormalized", "renormalized-both", "weights")
inf = math.inf


def teacher(p, *, temperature=1.0, seed=1):
    """Log-probabilities and tail log-probability of a dense random teacher on the problem's support."""
    g = torch.Generator().manual_seed(seed)
    full = torch.log_softmax(torch.randn(*p.dense().shape, generator=g, dtype=torch.float64) * 4 / temperature, 1)
    on = torch.zeros(full.shape[0], full.shape[1] + 1, dtype=torch.bool)
    on = on.scatter(1, torch.where(p.ids_NK < 0, full.shape[1], p.ids_NK), True)[:, :-1]
    return full, full.gather(1, p.ids_NK.clamp_min(0)), full.masked_fill(on, -inf).logsumexp(1)


def by_formula(z, ids, full, mode, direction, t):
    """One row at a time, plain probabilities, fp64."""
    out = []
    for row, support, lp in zip(z, ids, full, strict=True):
        real = support[support >= 0].long()
        rest = torch.ones(row.shape[0], dtype=torch.bool)
        rest[real] = False
        q_all = torch.softmax(row / t, 0)
        p, q = lp.exp()[real], q_all[real]
        if mode == "tail":
            p, q = torch.cat([p, lp.exp()[rest].sum()[None]]), torch.cat([q, q_all[rest].sum()[None]])
        elif mode.startswith("renormalized"):
            p = p / p.sum()
            q = q / q.sum() if mode.endswith("both") else q
        a, b = (p, q) if direction == "forward" else (q, p)
        out.append((a * (a.log() - b.log())).sum())
    return torch.stack(out)
