"""Registration of `distill_core::topk_logits` and `distill_core::linear_topk_logits`; both are not differentiable.

Legend: N rows, V vocabulary, D hidden, K entries kept, T temperatures.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..autocast import exact_arithmetic
from ..head import Head, compute_dtype
from ..support_logits.chunked import LinearSource, LogitsSource, Source, rows_of
from .reference import topk_and_tail


def _empty(source: Source, k: int, temperatures: int) -> tuple[Tensor, Tensor, Tensor]:
    n, like = source.like.shape[0], source.like
    return (
        like.new_empty(n, k, dtype=torch.int64),
        like.new_empty(n, k, dtype=source.dtype),
        like.new_empty(n, temperatures, dtype=source.dtype),
    )


def _kernel(impl: str) -> Callable[[Tensor, int, Sequence[float], Tensor, Tensor, Tensor], None]:
    """Fills ids, logits and tails of rows of logits."""
    if impl == "cpu":
        from . import native

        return native.topk_into
    from . import triton

    return triton.topk_into


def _chunked(
    source: Source, k: int, temperatures: list[float], valid_vocab: int, impl: str
) -> tuple[Tensor, Tensor, Tensor]:
    out = _empty(source, k, len(temperatures))
    if impl == "triton" and isinstance(source, LinearSource):
        from . import triton_head

        if triton_head.serves(source, k):
            triton_head.fused_into(source, k, temperatures, *out)
            return out
    chunks = rows_of(source, None)
    scratch_CV = None
    if isinstance(source, LinearSource):
        source, scratch_CV = source.laid_out(), source.scratch(chunks)
    if impl in ("cpu", "triton"):
        topk_into = _kernel(impl)
        if isinstance(source, LogitsSource):  # read where they are
            topk_into(source.logits_NV[:, :valid_vocab], k, temperatures, *out)
            return out
        for rows in chunks:
            topk_into(source.logits(rows, scratch_CV)[:, :valid_vocab], k, temperatures, *(into[rows] for into in out))
        return out
    if impl == "cuda":
        from .cuda import topk_rows

        if isinstance(source, LogitsSource):  # read where they are
            return topk_rows(source.logits_NV, k, temperatures, valid_vocab)
        for rows in chunks:
            found = topk_rows(source.logits(rows, scratch_CV), k, temperatures, valid_vocab)
            for into, value in zip(out, found, strict=True):
                into[rows] = value
        return out
    for rows in chunks:
        found = topk_and_tail(source.logits(rows, scratch_CV)[:, :valid_vocab], k, temperatures)
        for into, value in zip(out, found, strict=True):
            into[rows] = value
    return out


def _head(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, softcap: float | None, scale: float, impl: str
) -> LinearSource:
    return LinearSource(hidden, Head(weight, bias, softcap, scale, compute_dtype(hidden, weight), impl))


@torch.library.custom_op(
    "distill_core::topk_logits",
    mutates_args=(),
    schema="(Tensor logits, int k, float[] temperatures, int valid_vocab, str impl) -> (Tensor, Tensor, Tensor)",
)
def topk_logits_op(
    logits: Tensor, k: int, temperatures: list[float], valid_vocab: int, impl: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Top-k and tails of logits that exist."""
    return _chunked(LogitsSource(logits), k, temperatures, valid_vocab, impl)


@topk_logits_op.register_fake
def _(logits: Tensor, k: int, temperatures: list[float], valid_vocab: int, impl: str) -> tuple[Tensor, Tensor, Tensor]:
    return _empty(LogitsSource(logits), k, len(temperatures))


@torch.library.custom_op(
    "distill_core::linear_topk_logits",
    mutates_args=(),
    schema="(Tensor hidden, Tensor weight, Tensor? bias, int k, float[] temperatures, float? softcap,"
    " float logit_scale, int valid_vocab, str impl) -> (Tensor, Tensor, Tensor)",
)
def linear_topk_logits_op(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    k: int,
    temperatures: list[float],
    softcap: float | None,
    logit_scale: float,
    valid_vocab: int,
    impl: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """Top-k and tails from hidden states, chunk by chunk."""
    # Padding rows of the head are never multiplied.
    weight, bias = weight[:valid_vocab], None if bias is None else bias[:valid_vocab]
    with exact_arithmetic(hidden):
        return _chunked(_head(hidden, weight, bias, softcap, logit_scale, impl), k, temperatures, valid_vocab, impl)


@linear_topk_logits_op.register_fake
def _(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    k: int,
    temperatures: list[float],
    softcap: float | None,
    logit_scale: float,
    valid_vocab: int,
    impl: str,
) -> tuple[Tensor, Tensor, Tensor]:
    return _empty(_head(hidden, weight, bias, softcap, logit_scale, impl), k, len(temperatures))
