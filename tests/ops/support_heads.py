"""Heads that support logits are tried on, and what each field means by the plainest dense formula."""

from __future__ import annotations

import pytest
import torch

from distill_core import ops

EXTRAS = ("mean", "entropy", "top1")
# softcap, logit scale, temperatures, extras: one-exponential path, several temperatures, cap, entropy
HEADS = {
    "plain": (None, 1.0, (1.0,), ()),
    "scaled-hot": (None, 0.7, (2.5,), ()),
    "two-temperatures": (None, 1.0, (1.0, 0.5), ()),
    "softcap": (4.0, 1.3, (1.0,), ()),
    "mean": (None, 1.5, (1.0,), ("mean", "top1")),
    "entropy": (None, 1.0, (2.0,), ("entropy",)),
    "everything": (5.0, 0.8, (1.0, 3.0), EXTRAS),
}
ON_LOGITS = {name: h for name, h in HEADS.items() if h[0] is None and h[1] == 1.0}
both = pytest.mark.parametrize("impl", ["reference", "cpu"])


def parametrize(table):
    return pytest.mark.parametrize("head", table.values(), ids=table)


def dense_fields(z, ids, labels, temperatures, extras):
    """What each field means, by the plainest dense formula, one row at a time."""
    out = {"support": [], "tail": [], "label": [], "mean": [], "entropy": [], "top1": []}
    for row, support, label in zip(z, ids, labels, strict=True):
        real = support[support >= 0].long()
        rest = torch.ones(row.shape[0], dtype=torch.bool)
        rest[real] = False
        out["support"].append(torch.cat([row[i][None] if i >= 0 else row.new_zeros(1) for i in support.tolist()]))
        out["tail"].append(torch.stack([torch.logsumexp(row[rest] / t, 0) for t in temperatures]))
        out["label"].append(row[label] if label >= 0 else row.new_zeros(()))
        out["mean"].append(row.mean())
        q = [torch.softmax(row / t, 0) for t in temperatures]
        out["entropy"].append(torch.stack([-(p * p.log()).sum() for p in q]))
        out["top1"].append(row.argmax())
    return {name: torch.stack(v) for name, v in out.items() if name not in EXTRAS or name in extras}


def op_fields(s):
    """The same fields of a SupportLogits; padding reads 0."""
    out = {"support": s.support_NK.masked_fill(s.padding_NK, 0.0), "tail": s.tail_NT, "label": s.label_N}
    for name, value in (("mean", s.mean_N), ("entropy", s.entropy_NT), ("top1", s.top1_N)):
        if value is not None:
            out[name] = value
    return out


def mixture(fields):
    """A scalar that depends on every differentiable field with different, signed weights."""
    g = torch.Generator().manual_seed(7)
    total = 0.0
    for name in ("support", "tail", "label", "mean", "entropy"):
        if name in fields:
            x = fields[name]
            weight = torch.randn(x.shape, generator=g, dtype=torch.float64)
            total = total + (weight * x.double()).sum() + 0.1 * (x.double() ** 2).sum()
    return total


def linear(p, head, *, bias=True):
    softcap, scale, temperatures, extras = head
    return ops.linear_support_logits(
        p.hidden_ND,
        p.weight_VD,
        p.ids_NK,
        bias=p.bias_V if bias else None,
        labels_N=p.labels_N,
        temperatures=temperatures,
        softcap=softcap,
        logit_scale=scale,
        extras=extras,
    )
