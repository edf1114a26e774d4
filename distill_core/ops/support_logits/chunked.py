"""The row-chunk schedule: logits of at most 64 MiB alive at a time, recomputed in the backward pass.

Legend: N rows, C rows of a chunk, V vocabulary, D hidden, K support, T temperatures.

A `Source` yields logits chunk by chunk: `LinearSource` multiplies hidden states by a head, `LogitsSource` copies rows
of logits that exist. Everything after that is one code path.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from ..buffers import fresh
from ..head import Head, WeightGradient, compute_dtype
from ..row_chunks import default_rows, row_chunks
from .native_tile import NativeTile
from .reference import Statistics
from .tile import Asked, Cotangents, RowTile, Tile


@dataclass(frozen=True, eq=False)
class LinearSource:
    """Logits of hidden states under a head."""

    hidden_ND: Tensor
    head: Head

    @property
    def vocabulary(self) -> int:
        return self.head.weight_VD.shape[0]

    @property
    def like(self) -> Tensor:
        return self.hidden_ND

    @property
    def dtype(self) -> torch.dtype:
        return self.head.dtype

    def logits(self, rows: slice, into_CV: Tensor | None = None) -> Tensor:
        """z of these rows, in the first rows of `into_CV` or in a fresh [C, V] buffer."""
        return self.head.logits(self.hidden_ND[rows], None if into_CV is None else into_CV[: rows.stop - rows.start])

    def laid_out(self) -> LinearSource:
        """For a pass over many chunks: the head as its products want it."""
        return replace(self, head=self.head.laid_out())

    def scratch(self, chunks: Sequence[slice]) -> Tensor | None:
        """One [C, V] buffer for the logits of every chunk in turn; None where the products make their own."""
        if self.hidden_ND.is_cuda or not chunks:
            return None
        most = max(rows.stop - rows.start for rows in chunks)
        return fresh((most, self.vocabulary), self.dtype, self.hidden_ND, self.head.impl)


@dataclass(frozen=True, eq=False)
class LogitsSource:
    """Logits that exist."""

    logits_NV: Tensor

    @property
    def vocabulary(self) -> int:
        return self.logits_NV.shape[1]

    @property
    def like(self) -> Tensor:
        return self.logits_NV

    @property
    def dtype(self) -> torch.dtype:
        return compute_dtype(self.logits_NV)

    def logits(self, rows: slice, into_CV: Tensor | None = None) -> Tensor:
        """A fresh [C, V] buffer."""
        return self.logits_NV[rows].to(self.dtype, copy=True, memory_format=torch.contiguous_format)


Source = LinearSource | LogitsSource


class Request(NamedTuple):
    """What is asked of the logits."""

    ids_NK: Tensor
    labels_N: Tensor | None
    temperatures: Sequence[float]
    extras: Sequence[str]
    softcap: float | None = None
    logit_scale: float = 1.0
    impl: str = "reference"

    def tile(self, z_CV: Tensor, rows: slice) -> RowTile:
        """The tile of these rows."""
        labels_C = None if self.labels_N is None else self.labels_N[rows]
        options = (self.temperatures, self.extras, self.softcap, self.logit_scale)
        kind: type[RowTile] = NativeTile if self.impl == "cpu" else Tile
        if self.impl == "triton":
            from .triton_tile import TritonTile as kind
        return kind(z_CV, Asked(self.ids_NK[rows], labels_C, *options))


def empty_statistics(source: Source, request: Request) -> Statistics:
    """Uninitialised results; a field that was not asked for has no element."""
    n, temperatures = request.ids_NK.shape[0], len(request.temperatures)

    def new(*shape: int, dtype: torch.dtype = source.dtype) -> Tensor:
        return source.like.new_empty(shape, dtype=dtype)

    return Statistics(
        new(n, request.ids_NK.shape[1]),
        new(n, temperatures),
        new(n if request.labels_N is not None else 0),
        new(n if "mean" in request.extras else 0),
        new(n, temperatures) if "entropy" in request.extras else new(0),
        new(n if "top1" in request.extras else 0, dtype=torch.int64),
    )


def rows_of(source: Source, rows_per_chunk: int | None) -> Sequence[slice]:
    """The chunks of a source."""
    narrow = isinstance(source, LinearSource) and source.head.narrow
    size = rows_per_chunk or default_rows(source.vocabulary, source.dtype.itemsize, narrow=narrow)
    return list(row_chunks(source.like.shape[0], size))


def forward(source: Source, request: Request, rows_per_chunk: int | None = None) -> Statistics:
    """Statistics of all rows."""
    out, chunks, scratch_CV = empty_statistics(source, request), rows_of(source, rows_per_chunk), None
    if isinstance(source, LinearSource):
        source, scratch_CV = source.laid_out(), source.scratch(chunks)
    for rows in chunks:
        found = request.tile(source.logits(rows, scratch_CV), rows).statistics(gradient=False)
        for into, value in zip(out, found, strict=True):
            if into.numel():
                into[rows] = value
    return out


def cut(cotangents: Cotangents, rows: slice) -> Cotangents:
    """Rows of cotangents."""
    return Cotangents(*(None if x is None else x[rows] for x in cotangents))


def linear_backward(
    source: LinearSource,
    request: Request,
    tail_NT: Tensor,
    cotangents: Cotangents,
    needs: Sequence[bool],
    rows_per_chunk: int | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of hidden, weight and bias in their own dtypes; an empty tensor where `needs` is False."""
    head, hidden_ND, chunks = source.head, source.hidden_ND, rows_of(source, rows_per_chunk)
    dhidden_ND = torch.empty_like(hidden_ND) if needs[0] else hidden_ND.new_empty(0)
    dweight = WeightGradient(head) if needs[1] else None
    dbias_V = hidden_ND.new_zeros(source.vocabulary if needs[2] else 0, dtype=head.dtype)
    laid_out, scratch_CV = source.laid_out(), source.scratch(chunks)
    for rows in chunks:
        tile = request.tile(laid_out.logits(rows, scratch_CV), rows)
        tile.restore(tail_NT[rows])
        dpre_CV = tile.gradient_(cut(cotangents, rows))
        laid_out.head.gradients(dpre_CV, hidden_ND[rows], dhidden_ND[rows] if needs[0] else None, dweight)
        if needs[2]:
            dbias_V += dpre_CV.sum(0)
    del scratch_CV  # before the weight's gradient is rounded into a second buffer
    bias_dtype = hidden_ND.dtype if head.bias_V is None else head.bias_V.dtype
    nothing = head.weight_VD.new_empty(0)
    return (
        dhidden_ND,
        nothing if dweight is None else dweight.result(head.weight_VD.dtype),
        dbias_V.to(bias_dtype),
    )


def logits_backward(
    source: LogitsSource,
    request: Request,
    tail_NT: Tensor,
    cotangents: Cotangents,
    rows_per_chunk: int | None = None,
) -> Tensor:
    """Gradient of the logits in their own dtype."""
    dlogits_NV = torch.empty_like(source.logits_NV, memory_format=torch.contiguous_format)
    for rows in rows_of(source, rows_per_chunk):
        tile = request.tile(source.logits(rows), rows)
        tile.restore(tail_NT[rows])
        dlogits_NV[rows] = tile.gradient_(cut(cotangents, rows))
    return dlogits_NV
