"""Sampled supports: a few entries of a teacher's distribution with weights that are right on average.

Legend: N rows, V vocabulary, K entries.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from ...shapes import IdsNK, KeysN, LogitsNV, WeightsNK
from .. import cpu_library, cuda_library
from ..arguments import (
    check_choice,
    check_k,
    check_logits,
    check_row_vector,
    check_temperature,
    check_vocabulary_limit,
    check_whole,
)
from ..dispatch import Impl, declare, offer, select
from ..row_chunks import default_rows, row_chunks
from ..triton_probe import offer_kernels
from ..triton_probe import too_many as too_many_for_triton
from .reference import mark_strange_, multinomial, threshold

__all__ = ["sample_support"]

declare("sample_support")
offer("sample_support", "cpu", cpu_library.available, dtypes=cpu_library.DTYPES)
offer_kernels("sample_support")
offer("sample_support", "cuda", cuda_library.available, dtypes=cuda_library.DTYPES)


@torch.library.custom_op(
    "distill_core::sample_support",
    mutates_args=(),
    schema="(Tensor logits, int k, str method, float temperature, int seed, Tensor row_keys, int valid_vocab, str impl)"
    " -> (Tensor, Tensor)",
)
def _sample_support_op(
    logits: Tensor, k: int, method: str, temperature: float, seed: int, row_keys: Tensor, valid_vocab: int, impl: str
) -> tuple[Tensor, Tensor]:
    """Chunk by chunk; every row depends on its own logits and key alone."""
    if impl == "cuda":
        from .cuda import sample_rows

        return sample_rows(logits, k, method, temperature, seed, row_keys, valid_vocab)
    n = logits.shape[0]
    ids_NK = logits.new_empty(n, k, dtype=torch.int64)
    weights_NK = logits.new_empty(n, k, dtype=torch.float64 if logits.dtype == torch.float64 else torch.float32)
    ids_NK.fill_(-1)
    weights_NK.zero_()
    if k == 0 or valid_vocab == 0:
        return ids_NK, weights_NK
    if impl == "cpu":
        from .native import sample_into

        sample_into(logits[:, :valid_vocab], k, method, temperature, seed, row_keys, ids_NK, weights_NK)
        return ids_NK, weights_NK
    if impl == "triton":
        from .triton import sample_into as sample_by_triton

        sample_by_triton(logits[:, :valid_vocab], k, method, temperature, seed, row_keys, ids_NK, weights_NK)
        return ids_NK, weights_NK
    sample = threshold if method == "threshold" else multinomial
    for rows in row_chunks(n, default_rows(logits.shape[1], 8)):
        z_CL = logits[rows, :valid_vocab]
        ids, weights = sample(z_CL, k, temperature, seed, row_keys[rows])
        mark_strange_(z_CL, ids, weights)
        ids_NK[rows, : ids.shape[1]], weights_NK[rows, : ids.shape[1]] = ids, weights
    return ids_NK, weights_NK


@_sample_support_op.register_fake
def _(
    logits: Tensor, k: int, method: str, temperature: float, seed: int, row_keys: Tensor, valid_vocab: int, impl: str
) -> tuple[Tensor, Tensor]:
    dtype = torch.float64 if logits.dtype == torch.float64 else torch.float32
    return logits.new_empty(logits.shape[0], k, dtype=torch.int64), logits.new_empty(logits.shape[0], k, dtype=dtype)


def sample_support(
    logits_NV: LogitsNV,
    k: int,
    *,
    method: Literal["threshold", "multinomial"] = "threshold",
    temperature: float = 1.0,
    seed: int = 0,
    row_keys_N: KeysN | None = None,
    valid_vocab: int | None = None,
    impl: Impl = "auto",
) -> tuple[IdsNK, WeightsNK]:
    """Draw ids and weights with `E[weight of v] = p_v`, `p = softmax(logits / temperature)`. Not differentiable.

    `threshold`: with c such that `sum_i min(1, p_i / c) = k`, entry i is kept with probability `min(1, p_i / c)` by
    systematic sampling and gets the weight `max(p_i, c)`: exactly k entries where at least k are possible, weights that
    sum to 1 (Madow 1949; VarOpt, Cohen et al. 2009). Entries with `p_i >= c` come first, with their exact probability,
    by decreasing weight; all others follow with the one weight c. `multinomial`: k draws with replacement, weights
    count / k (Sparse Logit Sampling, arXiv 2503.16870), ids increasing, at most k of them.

    Weights are unbiased in losses that are linear in p (forward KL, cross-entropy), and in no others.

    Args:
        logits_NV: [N, V] floating point.
        k: entries (threshold) or draws (multinomial), at least 0; more than there are leaves padding.
        method: "threshold" (default) or "multinomial".
        temperature: positive number. Default 1.
        seed: any integer. Default 0.
        row_keys_N: [N] int32 or int64: random numbers depend on (seed, key of the row) alone, so chunks, threads and
            order change nothing. Default arange(N).
        valid_vocab: ids at or above it are never drawn. Default V.
        impl: "auto", "reference", "cpu", "triton" or "cuda".

    Returns int64 ids, -1 on padding, and fp32 weights (fp64 for fp64 logits), 0 on padding. A row that holds
    NaN or +inf has no distribution and gets one entry, the first such id, with the weight NaN. Raises `ValueError` or
    `TypeError` for wrong arguments.

    >>> import torch
    >>> from distill_core import ops
    >>> ops.sample_support(torch.zeros(1, 8), 4)[1]
    tensor([[0.2500, 0.2500, 0.2500, 0.2500]])
    """
    op = "sample_support"
    check_logits(op, logits_NV)
    check_choice(op, "method", method, ("threshold", "multinomial"))
    t = check_temperature(op, temperature)
    limit = check_vocabulary_limit(op, valid_vocab, logits_NV.shape[1])
    check_k(op, k)
    check_whole(op, "seed", seed)
    if row_keys_N is None:
        row_keys_N = torch.arange(logits_NV.shape[0], device=logits_NV.device)
    check_row_vector(op, "row_keys_N", row_keys_N, logits_NV, integer=True)
    unfit = {**cuda_library.too_many(k), **too_many_for_triton(k)}
    chosen = select(op, impl, logits_NV.device.type, logits_NV.dtype, unfit=unfit)
    seed = (seed + 2**63) % 2**64 - 2**63
    found: tuple[Tensor, Tensor] = _sample_support_op(logits_NV.detach(), k, method, t, seed, row_keys_N, limit, chosen)
    return found
