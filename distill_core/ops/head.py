"""The three matrix products of a language-model head on one chunk of rows, in fp32 (fp64 for fp64 inputs).

Legend: C rows of a chunk, S columns of a slab, V vocabulary, D hidden.

    z = softcap * tanh(scale * (h W^T + b) / softcap)          (softcap None: z = scale * (h W^T + b))

On a CPU the vocabulary is cut into slabs of a few MiB of weight, so that a slab of weight and of logits stays in cache;
both products of the backward pass are faster in one piece, where the weight can be read as it is. Low-precision weights
are upcast slab by slab into one buffer: many CPUs multiply bf16 matrices far slower than fp32 ones, and those that do
not write bf16 results: rounding logits to bf16 before p - q is formed costs 4-23 % of the gradient. A narrow head
(D <= 32) is kept transposed: BLAS is three times slower on a [V, 8] operand than on an [8, V] one, and the compiled
library's thin products are faster than both. On CUDA the tensor cores read bf16 and write fp32.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from . import thin_products
from .buffers import fresh

SLAB_BYTES = 4 * 2**20
NARROW = 32


def compute_dtype(*tensors: Tensor) -> torch.dtype:
    """fp64 if an input is fp64, else fp32."""
    return torch.float64 if any(x.dtype == torch.float64 for x in tensors) else torch.float32


@dataclass(frozen=True, eq=False)
class Head:
    """A linear head with its bias, scale and soft cap. `impl` "cpu" may call the compiled library."""

    weight_VD: Tensor
    bias_V: Tensor | None
    softcap: float | None
    logit_scale: float
    dtype: torch.dtype
    impl: str = "reference"

    @property
    def narrow(self) -> bool:
        """Whether the products are bound by memory rather than arithmetic, on a CPU."""
        return self.weight_VD.device.type == "cpu" and self.weight_VD.shape[1] <= NARROW

    @property
    def thin(self) -> bool:
        """Whether the products are those of the compiled library."""
        return self.narrow and self.impl == "cpu" and self.dtype == torch.float32

    def laid_out(self) -> Head:
        """The same head for a pass over many chunks: a narrow weight transposed in memory, in `dtype`."""
        if not self.narrow:
            return self
        return replace(self, weight_VD=self.weight_VD.to(self.dtype).t().contiguous().t())

    def _tensor_cores(self, x: Tensor) -> bool:
        return x.is_cuda and self.dtype == torch.float32 and x.dtype == self.weight_VD.dtype != torch.float32

    def _columns(self, *, backward: bool) -> Iterator[slice]:
        vocabulary, width = self.weight_VD.shape
        ready = self.weight_VD.dtype == self.dtype
        whole = ready and (backward or self.narrow or self.weight_VD.device.type != "cpu")
        step = max(1, vocabulary if whole else SLAB_BYTES // max(1, width * self.dtype.itemsize))
        for start in range(0, vocabulary, step):
            yield slice(start, min(vocabulary, start + step))

    def _slabs(self, *, backward: bool) -> Iterator[tuple[slice, Tensor]]:
        """Slabs of the weight in `dtype`; an upcast one is overwritten by the next."""
        buffer_SD: Tensor | None = None
        for columns in self._columns(backward=backward):
            w_SD = self.weight_VD[columns]
            if w_SD.dtype != self.dtype:
                buffer_SD = torch.empty_like(w_SD, dtype=self.dtype) if buffer_SD is None else buffer_SD
                w_SD = self._upcast(w_SD, buffer_SD[: w_SD.shape[0]])
            yield columns, w_SD

    def _upcast(self, w_SD: Tensor, into_SD: Tensor) -> Tensor:
        if self.impl == "cpu" and self.dtype == torch.float32 and w_SD.is_contiguous() and into_SD.is_contiguous():
            torch.ops.distill_core_cpu.widen(w_SD, into_SD)
            return into_SD
        return into_SD.copy_(w_SD)

    def logits(self, hidden_CD: Tensor, into_CV: Tensor | None = None) -> Tensor:
        """z of a chunk: written into `into_CV`, or into a fresh [C, V] buffer."""
        if self._tensor_cores(hidden_CD):
            z_CV = torch.mm(hidden_CD, self.weight_VD.t(), out_dtype=self.dtype)
        else:
            x_CD, shape = hidden_CD.to(self.dtype), (hidden_CD.shape[0], self.weight_VD.shape[0])
            z_CV = fresh(shape, self.dtype, hidden_CD, self.impl) if into_CV is None else into_CV
            if self.thin:
                thin_products.logits_into(z_CV, x_CD, self.weight_VD.t(), self.bias_V)
            else:
                for columns, w_SD in self._slabs(backward=False):
                    torch.mm(x_CD, w_SD.t(), out=z_CV[:, columns])
        if self.bias_V is not None and not self.thin:
            z_CV += self.bias_V
        if self.softcap is not None:
            z_CV.mul_(self.logit_scale / self.softcap).tanh_().mul_(self.softcap)
        elif self.logit_scale != 1.0:
            z_CV *= self.logit_scale
        return z_CV

    def slope(self, z: Tensor) -> Tensor | float:
        """dz / d(h W^T + b), from z itself."""
        if self.softcap is None:
            return self.logit_scale
        return (1 - (z / self.softcap) ** 2) * self.logit_scale

    def gradients(
        self, dpre_CV: Tensor, hidden_CD: Tensor, dhidden_CD: Tensor | None, dweight: WeightGradient | None
    ) -> None:
        """`dhidden = dpre W` (rounded once to its dtype) and `dweight += dpre^T h`; None leaves one out."""
        if self._tensor_cores(hidden_CD):
            narrowed_CV = dpre_CV.to(hidden_CD.dtype)
            if dhidden_CD is not None:
                dhidden_CD.copy_(torch.mm(narrowed_CV, self.weight_VD, out_dtype=self.dtype))
            if dweight is not None:
                dweight.add(torch.mm(narrowed_CV.t(), hidden_CD, out_dtype=self.dtype))
            return
        if self.thin:
            into_DV, add = (None, False) if dweight is None else dweight.transposed()
            thin_products.gradients_into(dpre_CV, hidden_CD, self.weight_VD.t(), dhidden_CD, into_DV, add=add)
            if dweight is not None:
                dweight.chunk_done()
            return
        x_CD = hidden_CD.to(self.dtype)
        direct = dhidden_CD is not None and dhidden_CD.dtype == self.dtype and dhidden_CD.stride(1) == 1
        dh_CD = dhidden_CD if direct else torch.empty_like(x_CD)
        # Without a gradient of hidden states the weight itself is not read.
        read = dhidden_CD is not None
        slabs = self._slabs(backward=True) if read else ((columns, None) for columns in self._columns(backward=True))
        for columns, w_SD in slabs:
            dpre_CS = dpre_CV[:, columns]
            if w_SD is not None and dh_CD is not None:
                torch.addmm(dh_CD, dpre_CS, w_SD, beta=0 if columns.start == 0 else 1, out=dh_CD)
            if dweight is not None:
                dweight.add_product(columns, dpre_CS, x_CD)
        if dweight is not None:
            dweight.chunk_done()
        if dhidden_CD is not None and not direct and dh_CD is not None:
            dhidden_CD.copy_(dh_CD)


class WeightGradient:
    """The weight's gradient, summed over chunks in the dtype of the computation.

    The first chunk overwrites: the buffer is never filled with zeros, and each page is first touched by a product.
    """

    def __init__(self, head: Head) -> None:
        self._head = head
        vocabulary, width = head.weight_VD.shape
        shape = (width, vocabulary) if head.narrow else (vocabulary, width)
        total = fresh(shape, head.dtype, head.weight_VD, head.impl)
        self._total_VD = total.t() if head.narrow else total
        self._empty = True

    def add_product(self, columns: slice, dpre_CS: Tensor, x_CD: Tensor) -> None:
        """Adds `dpre^T x` to the rows `columns`; every slab of a chunk once, then `chunk_done()`."""
        total_SD = self._total_VD[columns]
        torch.addmm(total_SD, dpre_CS.t(), x_CD, beta=0 if self._empty else 1, out=total_SD)

    def transposed(self) -> tuple[Tensor, bool]:
        """[D, V] of a narrow head, for a product of the whole chunk, and whether to add; then `chunk_done()`."""
        return self._total_VD.t(), not self._empty

    def chunk_done(self) -> None:
        """From now on products are added."""
        self._empty = False

    def add(self, part_VD: Tensor) -> None:
        """Adds a whole product."""
        if self._empty:
            self._total_VD.copy_(part_VD)
        else:
            self._total_VD += part_VD
        self._empty = False

    def result(self, dtype: torch.dtype) -> Tensor:
        """The sum in `dtype`, contiguous: the one rounding. Zero if no chunk came."""
        if self._empty:
            self._total_VD.zero_()
        return self._total_VD.to(dtype).contiguous()
