"""The three matrix products of a language-model head on one chunk of rows, in fp32 (fp64 for fp64 inputs).

Legend: C rows of a chunk, V vocabulary, D hidden.

    z = softcap * tanh(scale * (h W^T + b) / softcap)          (softcap None: z = scale * (h W^T + b))

Low-precision weights are upcast slab by slab: a CPU multiplies bf16 matrices several times slower than fp32 ones, and
rounding logits to bf16 before p - q is formed costs 4-23 % of the gradient. On CUDA the tensor cores read bf16 and
write fp32.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

SLAB_BYTES = 8 * 2**20


def compute_dtype(*tensors: Tensor) -> torch.dtype:
    """fp64 if an input is fp64, else fp32."""
    return torch.float64 if any(x.dtype == torch.float64 for x in tensors) else torch.float32


@dataclass(frozen=True, eq=False)
class Head:
    """A linear head with its bias, scale and soft cap."""

    weight_VD: Tensor
    bias_V: Tensor | None
    softcap: float | None
    logit_scale: float
    dtype: torch.dtype

    def _tensor_cores(self, x: Tensor) -> bool:
        return x.is_cuda and self.dtype == torch.float32 and x.dtype == self.weight_VD.dtype != torch.float32

    def _slabs(self) -> Iterator[tuple[slice, Tensor]]:
        vocabulary, width = self.weight_VD.shape
        if self.weight_VD.dtype == self.dtype:
            yield slice(0, vocabulary), self.weight_VD
            return
        step = max(1, SLAB_BYTES // max(1, width * 4))
        for start in range(0, vocabulary, step):
            columns = slice(start, min(vocabulary, start + step))
            yield columns, self.weight_VD[columns].to(self.dtype)

    def logits(self, hidden_CD: Tensor) -> Tensor:
        """z of a chunk, a fresh [C, V] buffer."""
        if self._tensor_cores(hidden_CD):
            z_CV = torch.mm(hidden_CD, self.weight_VD.t(), out_dtype=self.dtype)
        elif self.weight_VD.dtype == self.dtype:
            z_CV = hidden_CD.to(self.dtype) @ self.weight_VD.t()
        else:
            x_CD = hidden_CD.to(self.dtype)
            z_CV = torch.empty(hidden_CD.shape[0], self.weight_VD.shape[0], dtype=self.dtype, device=hidden_CD.device)
            for columns, w_SD in self._slabs():
                torch.mm(x_CD, w_SD.t(), out=z_CV[:, columns])
        if self.bias_V is not None:
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

    def hidden_gradient(self, dpre_CV: Tensor, like_CD: Tensor) -> Tensor:
        """dpre W, in the dtype of the computation."""
        if self._tensor_cores(like_CD):
            return torch.mm(dpre_CV.to(self.weight_VD.dtype), self.weight_VD, out_dtype=self.dtype)
        if self.weight_VD.dtype == self.dtype:
            return dpre_CV @ self.weight_VD
        grad_CD = torch.zeros(dpre_CV.shape[0], self.weight_VD.shape[1], dtype=self.dtype, device=dpre_CV.device)
        for columns, w_SD in self._slabs():
            grad_CD.addmm_(dpre_CV[:, columns], w_SD)
        return grad_CD

    def add_weight_gradient(self, into_VD: Tensor, dpre_CV: Tensor, hidden_CD: Tensor) -> None:
        """into += dpre^T h, accumulated in the dtype of the computation."""
        if self._tensor_cores(hidden_CD):
            into_VD += torch.mm(dpre_CV.to(hidden_CD.dtype).t(), hidden_CD, out_dtype=self.dtype)
        else:
            into_VD.addmm_(dpre_CV.t(), hidden_CD.to(self.dtype))
