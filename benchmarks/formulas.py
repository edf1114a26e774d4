"""Sparse KL with a head as other people write it: plain torch, and our own writing of formulas that projects publish.

Legend: N rows, n rows of a chunk, V vocabulary, D hidden, K support.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from benchmarks.head_problem import HeadProblem
from distill_core import ops

Result = tuple[Tensor, ...]
CHUNK_ROWS = 256


def _log1m(sum_N: Tensor) -> Tensor:
    return (1 - sum_N).clamp_min(1e-9).log()


def tail_loss(logits_NV: Tensor, ids_NK: Tensor, logp_NK: Tensor, tail_logp_N: Tensor) -> Tensor:
    """What one writes first: log_softmax, gather, the student's tail by 1 - sum (inexact where the tail is small)."""
    logq_NK = logits_NV.float().log_softmax(1).gather(1, ids_NK)
    head_N = (logp_NK.exp() * (logp_NK - logq_NK)).sum(1)
    t_N = tail_logp_N.exp()
    log_t_N = torch.where(t_N > 0, tail_logp_N, 0.0)
    return (head_N + t_N * (log_t_N - _log1m(logq_NK.exp().sum(1)))).mean()


def eager(p: HeadProblem, *, upcast: bool = False) -> Result:
    """All logits at once; `upcast` makes fp32 copies of hidden states and weight first."""
    hidden, weight = (p.hidden_ND.float(), p.weight_VD.float()) if upcast else (p.hidden_ND, p.weight_VD)
    return p.with_gradients(tail_loss(hidden @ weight.T, p.ids_NK, p.logp_NK, p.tail_logp_N))


def compiled_eager(p: HeadProblem) -> Any:
    """`torch.compile` of product and loss together."""

    @torch.compile(dynamic=False)
    def loss(hidden: Tensor, weight: Tensor, ids: Tensor, logp: Tensor, tail: Tensor) -> Tensor:
        return tail_loss(hidden @ weight.T, ids, logp, tail)

    return lambda: p.with_gradients(loss(p.hidden_ND, p.weight_VD, p.ids_NK, p.logp_NK, p.tail_logp_N))


@torch.no_grad()
def chunked_by_hand(p: HeadProblem) -> Result:
    """Row chunks, gradient formulas written out in torch, softmax in place: three products and a weight gradient."""
    n_rows = len(p.hidden_ND)
    hidden_ND, weight_VD = p.hidden_ND.float(), p.weight_VD.float()
    d_hidden_ND, d_weight_VD = torch.empty_like(hidden_ND), torch.zeros_like(weight_VD)
    loss = hidden_ND.new_zeros(())
    for start in range(0, n_rows, CHUNK_ROWS):
        rows = slice(start, start + CHUNK_ROWS)
        ids, p_nK, logp, tail = p.ids_NK[rows], p.logp_NK[rows].exp(), p.logp_NK[rows], p.tail_logp_N[rows]
        z_nV = hidden_ND[rows] @ weight_VD.T
        z_nV -= z_nV.logsumexp(1, keepdim=True)
        logq_nK = z_nV.gather(1, ids)
        q_nV = z_nV.exp_()
        log_rest_n = _log1m(logq_nK.exp().sum(1))
        t_n = tail.exp()
        loss += (p_nK * (logp - logq_nK)).sum() + (t_n * (torch.where(t_n > 0, tail, 0.0) - log_rest_n)).sum()
        q_nV *= (1 - t_n / log_rest_n.exp())[:, None]
        dz_nV = q_nV.scatter_(1, ids, logq_nK.exp() - p_nK).div_(n_rows)
        torch.mm(dz_nV, weight_VD, out=d_hidden_ND[rows])
        d_weight_VD.addmm_(dz_nV.T, hidden_ND[rows])
    return loss / n_rows, d_hidden_ND.to(p.hidden_ND.dtype), d_weight_VD.to(p.weight_VD.dtype)


def truncated_chunk(hidden: Tensor, weight: Tensor, ids: Tensor, logp: Tensor) -> Tensor:
    z = (hidden @ weight.T).float()
    return (logp.exp() * (logp - (z.gather(1, ids) - z.logsumexp(1, keepdim=True)))).sum()


def chunked_logsumexp(p: HeadProblem, *, chunks: int = 8) -> Result:
    """All logits, then the loss over chunks of rows by gather and logsumexp, as axolotl's top-k loss describes it."""
    logits_NV = p.hidden_ND @ p.weight_VD.T
    parts = zip(logits_NV.chunk(chunks), p.ids_NK.chunk(chunks), p.logp_NK.chunk(chunks), strict=True)
    loss = logits_NV.new_zeros((), dtype=torch.float32)
    for z, ids, logp in parts:
        z32 = z.float()
        loss = loss + (logp.exp() * (logp - (z32.gather(1, ids) - z32.logsumexp(1, keepdim=True)))).sum()
    return p.with_gradients(loss / len(logits_NV))


@torch.no_grad()
def chunked_grad_in_forward(p: HeadProblem) -> Result:
    """Per chunk, `torch.func.grad_and_value` of product and loss, weight gradients added up: axolotl with Liger."""
    step = torch.func.grad_and_value(truncated_chunk, argnums=(0, 1))
    hidden_ND, weight_VD = p.hidden_ND.detach(), p.weight_VD.detach()
    d_weight_VD, d_hidden, loss = torch.zeros_like(weight_VD), [], hidden_ND.new_zeros((), dtype=torch.float32)
    for start in range(0, len(hidden_ND), CHUNK_ROWS):
        rows = slice(start, start + CHUNK_ROWS)
        (d_rows, d_weight), value = step(hidden_ND[rows], weight_VD, p.ids_NK[rows], p.logp_NK[rows])
        d_hidden.append(d_rows)
        d_weight_VD += d_weight
        loss += value
    n_rows = len(hidden_ND)
    return loss / n_rows, torch.cat(d_hidden) / n_rows, d_weight_VD / n_rows


def log_softmax_missing_mass(p: HeadProblem) -> Result:
    """DistillKit's sparse KL: log_softmax of everything, the missing mass of both sides as one more outcome."""
    logq_NV = (p.hidden_ND @ p.weight_VD.T).float().log_softmax(1)
    logq_NK = logq_NV.gather(1, p.ids_NK)
    missing_p_N = (1 - p.logp_NK.exp().sum(1)).clamp_min(0.0)
    log_missing_p_N = missing_p_N.clamp_min(1e-9).log()
    log_missing_q_N = _log1m(logq_NK.exp().sum(1))
    kl_N = (p.logp_NK.exp() * (p.logp_NK - logq_NK)).sum(1) + missing_p_N * (log_missing_p_N - log_missing_q_N)
    return p.with_gradients(kl_N.mean())


def ours(p: HeadProblem, *, mode: str = "tail", recompute: bool = False) -> Result:
    """`ops.linear_sparse_kl`; `recompute`: by `reduction="none"`, which takes the gradient in the backward pass."""
    loss = ops.linear_sparse_kl(
        p.hidden_ND,
        p.weight_VD,
        p.ids_NK,
        p.logp_NK,
        tail_logp_N=p.tail_logp_N if mode == "tail" else None,
        mode=mode,  # type: ignore[arg-type]
        reduction="none" if recompute else "mean",
    )
    return p.with_gradients(loss.mean() if recompute else loss)


@torch.no_grad()
def three_products(p: HeadProblem) -> Result:
    """The floor: logits, gradient of the hidden states, gradient of the weight, and no loss between them (fp32)."""
    hidden_ND, weight_VD = p.hidden_ND.float(), p.weight_VD.float()
    z_NV = hidden_ND @ weight_VD.T
    return z_NV @ weight_VD, z_NV.T @ hidden_ND
