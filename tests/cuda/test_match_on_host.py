"""`gradient_match` by the CUDA kernels, everything but the launch: the kernels run on the host."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from distill_core import ops
from distill_core.ops.gradient_match import cuda, reference
from distill_core.ops.gradient_match.reference import Rule

from .conftest import Shim

pytestmark = pytest.mark.native
RULES = [
    Rule("cosine", "row", 1e-12, "clamp"),
    Rule("cosine", "row", 1e-6, "added"),
    Rule("cosine", "tensor", 1e-12, "clamp"),
    Rule("cosine", "global", 1e-6, "added"),
    Rule("l2", "row", 1e-12, "clamp"),
    Rule("l2+l1", "tensor", 1e-12, "clamp"),
]
SHAPES = [(4, 3, 3, 3), (7, 130), (1, 5), (2, 1)]
WEIGHTS = [1.0, 0.25, 2.0, 0.0]


@pytest.fixture
def on_host(shim: Shim, monkeypatch: pytest.MonkeyPatch) -> None:
    def match_rows(a: Sequence[Tensor], b: Sequence[Tensor], *, difference: bool = False) -> Tensor:
        table, rows = cuda.table_of(a, b, a)
        sums = torch.full((rows, 3), torch.nan, dtype=torch.float64)
        shim.call("distill_match_rows", table, len(table), rows, int(difference), sums)
        return sums

    def combine_rows(a: Sequence[Tensor], b: Sequence[Tensor], by_R3: Tensor, into: Tensor) -> None:
        parts = [part.view(x.shape) for part, x in zip(torch.split(into, [x.numel() for x in a]), a, strict=True)]
        table, rows = cuda.table_of(a, b, parts)
        shim.call("distill_combine_rows", table, len(table), rows, by_R3.double().contiguous())

    monkeypatch.setattr(cuda, "match_rows", match_rows)
    monkeypatch.setattr(cuda, "combine_rows", combine_rows)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: f"{rule.distance}-{rule.group}-{rule.eps_mode}")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.usefixtures("on_host")
def test_value_and_gradient(rule: Rule, dtype: torch.dtype) -> None:
    g = torch.Generator().manual_seed(0)
    a, b = ([torch.randn(*shape, generator=g).to(dtype) for shape in SHAPES] for _ in range(2))
    a[1][2] = 0.0  # a row without a direction
    a[0] = a[0].transpose(2, 3)  # not contiguous
    value, statistics = cuda.forward(a, b, WEIGHTS, rule)
    want, want_statistics = reference.forward(a, b, WEIGHTS, rule)
    torch.testing.assert_close(value, want, rtol=2e-6, atol=1e-6)
    torch.testing.assert_close(statistics, want_statistics, rtol=2e-6, atol=1e-6)
    upstream = torch.tensor(0.7)
    found = cuda.backward(upstream, a, b, want_statistics, WEIGHTS, rule)
    expected = reference.backward(upstream, a, b, want_statistics, WEIGHTS, rule)
    spacing = {torch.float32: 1e-6, torch.bfloat16: 8e-3}[dtype]
    torch.testing.assert_close(found, expected, rtol=spacing, atol=spacing * float(expected.abs().max()))


@pytest.mark.parametrize("op", ["gradient_match", "random_projection"])
def test_on_cpu_tensors_it_says_why_not(op: str) -> None:
    with pytest.raises(RuntimeError, match=f'{op}: impl="cuda" cannot run: the cuda kernel runs on cuda tensors'):
        _call(op, torch.ones(2, 3))


def _call(op: str, x: Tensor) -> Tensor:
    if op == "gradient_match":
        return ops.gradient_match([x], [x + 1], impl="cuda")
    return ops.random_projection(x, 4, seed=0, impl="cuda")
