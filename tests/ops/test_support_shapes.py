"""`linear_support_logits` and the fused loss over drawn shapes, strides, dtypes, paddings and options, against fp64."""

from __future__ import annotations

import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from distill_core import ops


def strided(x, how):
    """The same numbers behind other strides."""
    if how == "transposed":
        return x.T.contiguous().T
    if how == "every-second":
        return torch.stack([x, x + 1], -1).flatten(-2)[..., ::2]
    return x.contiguous()


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(0, 6),
    v=st.integers(1, 33),
    d=st.integers(1, 7),
    data=st.data(),
    dtype=st.sampled_from([torch.float64, torch.float32, torch.bfloat16, torch.float16]),
    strides=st.tuples(*[st.sampled_from(["contiguous", "transposed", "every-second"])] * 3),
    softcap=st.sampled_from([None, 8.0]),
    temperatures=st.sampled_from([(1.0,), (2.0,), (0.7, 1.0, 4.0)]),
    ids_dtype=st.sampled_from([torch.int32, torch.int64]),
    chunk=st.integers(1, 7),
)
def test_any_shape(n, v, d, data, dtype, strides, softcap, temperatures, ids_dtype, chunk):
    k = data.draw(st.sampled_from(sorted({0, 1, v // 2, v})))
    g = torch.Generator().manual_seed(data.draw(st.integers(0, 10**6)))
    ids = torch.rand(n, v, generator=g).argsort(1)[:, :k]
    ids = torch.where(torch.rand(n, k, generator=g) < data.draw(st.sampled_from([0.0, 0.3, 1.0])), -1, ids)
    ids = strided(ids.to(ids_dtype), strides[2])
    hidden = strided((torch.randn(n, d, generator=g) * 2).to(dtype), strides[0]).requires_grad_()
    weight = strided(torch.randn(v, d, generator=g).to(dtype), strides[1]).requires_grad_()
    labels = torch.randint(0, v, (n,), generator=g)
    labels = torch.where(torch.rand(n, generator=g) < 0.3, -100, labels)
    extras = ("entropy", "mean") if 1.0 in temperatures else ()

    def row_loss(s, rows=None):
        loss = sum((s.log_probs(t, floor=-40.0).clamp_min(-40.0) ** 2).sum(1) for t in temperatures)
        return loss + (s.cross_entropy() + s.entropy_NT.sum(1) + s.mean_N**2 if extras else 0.0)

    def dense(h, w):
        z = h @ w.T
        z = z if softcap is None else softcap * torch.tanh(z / softcap)
        on = torch.zeros(n, v + 1, dtype=torch.bool).scatter(1, torch.where(ids < 0, v, ids).long(), True)[:, :v]
        rows = []
        for t in temperatures:
            lp = torch.log_softmax(z / t, 1)
            inside = lp.gather(1, ids.long().clamp_min(0)).masked_fill(ids < 0, -40.0).clamp_min(-40.0)
            full = on.all(1)
            rest = torch.logsumexp(lp.masked_fill(on & ~full[:, None], -math.inf), 1)
            rest = rest.masked_fill(full, -40.0).clamp_min(-40.0)
            rows.append((inside**2).sum(1) + rest**2)
        loss = sum(rows)
        if extras:
            ce = torch.nn.functional.cross_entropy(z, labels, reduction="none", ignore_index=-100) if n else z.sum(1)
            entropy = sum(torch.special.entr(torch.softmax(z / t, 1)).sum(1) for t in temperatures)
            loss = loss + ce + entropy + z.mean(1) ** 2
        return loss.sum()

    options = {"labels_N": labels, "temperatures": temperatures, "softcap": softcap, "extras": extras}
    exact = [x.detach().double().requires_grad_() for x in (hidden, weight)]
    truth = dense(*exact)
    want = torch.autograd.grad(truth, exact)
    op = row_loss(ops.linear_support_logits(hidden, weight, ids, **options)).sum()
    fused = ops.sparse_distill_loss(hidden, weight, ids, row_loss, chunk_rows=chunk, **options)
    eps = 1e-10 if dtype == torch.float64 else 3e-5
    for loss in (op, fused):
        torch.testing.assert_close(loss.double(), truth, rtol=eps, atol=eps)
        for got, w in zip(torch.autograd.grad(loss, (hidden, weight)), want, strict=True):
            bound = torch.finfo(dtype).eps * w.abs() + eps * (1 + w.abs().max() if w.numel() else 1)
            assert got.dtype == dtype and got.shape == w.shape
            assert ((got.double() - w).abs() <= bound).all()
