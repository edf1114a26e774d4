"""Gradient matching and random projection in each instruction set, against the reference, at ragged lengths."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.native

MATCHING = """
import torch
from distill_core import ops
torch.manual_seed(0)
for dtype in (torch.float32, torch.bfloat16, torch.float16):
    for columns in (1, 3, 4, 7, 8, 15, 16, 17, 33, 2047, 2049, 16385):
        b = [torch.randn(3, columns).to(dtype), torch.randn(columns).to(dtype)]
        a = [(x + torch.randn_like(x)).requires_grad_() for x in b]
        for distance in ("cosine", "l2+l1"):
            for group in ("row", "tensor", "global"):
                found = []
                for impl in ("reference", "cpu"):
                    value = ops.gradient_match(a, b, distance=distance, group=group, include_vectors=True, impl=impl)
                    found.append((value, *torch.autograd.grad(value, a)))
                tolerance = {torch.float32: 2e-6, torch.bfloat16: 1e-2, torch.float16: 2e-3}[dtype]
                torch.testing.assert_close(found[1][0], found[0][0], rtol=2e-6, atol=2e-6)
                for got, want in zip(found[1][1:], found[0][1:]):
                    scale = float(want.abs().max())
                    if columns == 1:  # the difference of two terms of size 1 / |a|
                        scale += 1 / float(min(x.detach().abs().min() for x in a))
                    torch.testing.assert_close(got, want, rtol=tolerance, atol=tolerance * scale)
"""

PROJECTION = """
import torch
from distill_core import ops
torch.manual_seed(0)
for n, features, dim in ((1, 1, 1), (2, 511, 63), (3, 513, 129), (4, 1025, 64), (5, 700, 200), (11, 90, 300)):
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        x = [torch.randn(n, features).to(dtype), torch.randn(n, 5)]
        got, want = (ops.random_projection(x, dim, seed=3, feature_offset=9, impl=i) for i in ("cpu", "reference"))
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)
"""


@pytest.mark.parametrize("code", [MATCHING, PROJECTION], ids=["gradient_match", "random_projection"])
def test_equals_the_reference(on_isa, code):
    on_isa(code)
