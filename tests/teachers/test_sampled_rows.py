"""What a sample brings beside its entries: exact entropy and the threshold c, at a real vocabulary's size."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from benchmarks.measure import memory
from distill_core.types import RowTarget, SparseSpec
from distill_teachers.sparse_targets import from_logits

V = 49_152


def logits() -> Tensor:
    """[12, V] fp32: spread, nearly certain, uniform, and with impossible tokens."""
    z_NV = torch.randn(12, V, generator=torch.Generator().manual_seed(0)) * 3
    z_NV[1, 7] = 60.0
    z_NV[2] = 0.0
    z_NV[3, 20:] = -torch.inf
    return z_NV


def sampled(z_NV: Tensor, method: str, k: int, temperature: float) -> RowTarget:
    spec = SparseSpec(method, k, (temperature,), seed=1)
    keys_N = torch.arange(len(z_NV))
    return from_logits(lambda rows: z_NV[rows], len(z_NV), spec, vocabulary=V, valid_vocab=V, row_keys_N=keys_N)


@pytest.mark.parametrize("temperature", [1.0, 0.5, 2.0])
@pytest.mark.parametrize("method", ["threshold", "multinomial"])
def test_the_entropy_is_exact(method: str, temperature: float) -> None:
    """A sum of 49,152 fp32 terms in one go is off by 4e-3 nat here; what is asked for is 1e-5."""
    logp_NV = (logits().double() / temperature).log_softmax(1)
    entropy_N = -(logp_NV.exp() * logp_NV.masked_fill(logp_NV.isneginf(), 0.0)).sum(1)
    found = sampled(logits(), method, 16, temperature).entropy_N
    assert found is not None and found.dtype == torch.float32
    torch.testing.assert_close(found.double(), entropy_N, rtol=0, atol=1e-5)


@pytest.mark.parametrize("k", [4, 16, 64])
def test_the_threshold_is_the_weight_of_what_is_drawn(k: int) -> None:
    """sum_i min(1, p_i / c) = k, by bisection in fp64; 0 where at most k tokens are possible."""
    p_NV = logits().double().softmax(1)
    found = sampled(logits(), "threshold", k, 1.0).threshold_N
    assert found is not None
    for n, p_V in enumerate(p_NV):
        if int((p_V > 0).sum()) <= k:
            assert float(found[n]) == 0.0
            continue
        low, high = 0.0, 1.0
        for _ in range(200):
            c = (low + high) / 2
            low, high = (c, high) if float((p_V / c).clamp_max(1).sum()) > k else (low, c)
        assert math.isclose(float(found[n]), c, rel_tol=1e-4, abs_tol=1e-30), (n, float(found[n]), c)


def test_no_second_table_of_logits_is_made() -> None:
    z_NV = logits()
    peak, largest = memory(lambda: sampled(z_NV, "threshold", 16, 1.0))
    whole = z_NV.numel() * z_NV.element_size()
    assert largest < whole / 4 and peak < whole / 2
