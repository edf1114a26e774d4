"""Inputs and dense fp64 truths shared by the tests of the ops.

Legend: N rows, V vocabulary, D hidden, K support.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


@dataclass
class Problem:
    """One head, one support, one teacher."""

    hidden_ND: Tensor
    weight_VD: Tensor
    bias_V: Tensor
    ids_NK: Tensor
    labels_N: Tensor

    @property
    def inputs(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.hidden_ND, self.weight_VD, self.bias_V

    def double(self) -> Problem:
        def up(x: Tensor) -> Tensor:
            return x.detach().double().requires_grad_()

        return Problem(up(self.hidden_ND), up(self.weight_VD), up(self.bias_V), self.ids_NK, self.labels_N)

    def dense(self, *, softcap: float | None = None, scale: float = 1.0, bias: bool = True) -> Tensor:
        """The head's logits from its definition."""
        z = self.hidden_ND @ self.weight_VD.T
        z = z + self.bias_V if bias else z
        return z * scale if softcap is None else softcap * torch.tanh(z * scale / softcap)


@pytest.fixture
def make_problem():
    """Peaked, signed logits (spread above 10), padding ids in two rows, one row all padding, one ignored label."""

    def make(n=11, v=37, d=6, k=5, *, dtype=torch.float64, spread=3.0, seed=0) -> Problem:
        g = torch.Generator().manual_seed(seed)
        hidden = (torch.randn(n, d, generator=g, dtype=torch.float64) * spread).to(dtype).requires_grad_()
        weight = torch.randn(v, d, generator=g, dtype=torch.float64).to(dtype).requires_grad_()
        bias = torch.randn(v, generator=g, dtype=torch.float64).to(dtype).requires_grad_()
        ids = torch.rand(n, v, generator=g).argsort(1)[:, :k].contiguous()
        labels = torch.randint(0, v, (n,), generator=g)
        if n > 4 and k > 1:
            ids[0, 1] = -1
            ids[2, 0] = -1
            ids[3] = -1
            labels[1] = -100
            labels[4] = ids[4, 0]  # a label on the support
        return Problem(hidden, weight, bias, ids, labels)

    return make


@pytest.fixture
def peaked_tail():
    """Rows whose mass outside the support is the given amount, exactly known in fp64.

    Returns fp32 logits [N, V] and ids [N, K].
    """

    def make(qbar: float, n=9, v=300, k=4, seed=0) -> tuple[Tensor, Tensor]:
        g = torch.Generator().manual_seed(seed)
        z = torch.randn(n, v, generator=g, dtype=torch.float64)
        ids = torch.rand(n, v, generator=g).argsort(1)[:, :k]
        rest = z.scatter(1, ids, -torch.inf).logsumexp(1, keepdim=True)
        top = z.gather(1, ids).logsumexp(1, keepdim=True)
        shift = rest - top + torch.log(torch.tensor((1 - qbar) / qbar, dtype=torch.float64))
        return z.scatter(1, ids, z.gather(1, ids) + shift).float(), ids

    return make
