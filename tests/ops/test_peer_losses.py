"""Defects of other people's sparse losses: each test fails on the peer's formula and passes on ours."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch

from distill_core import ops
from tests.ops.sparse_teacher import MODES, teacher

inf = math.inf


@pytest.mark.parametrize("qbar", [1e-4, 1e-6, 1e-8])
def test_peer_tail_by_one_minus_the_sum_of_the_student(peaked_tail, qbar):
    """1 - sum in fp32 (DistillKit, Megatron, TRL with its clamp) is off by 5 % to 100 %; ours is right to 1e-5."""
    z, ids = peaked_tail(qbar)
    t = torch.full((9,), 3 * qbar, dtype=torch.float64)
    q64 = torch.softmax(z.double(), 1).gather(1, ids)
    p = q64 * ((1 - t) / (1 - qbar))[:, None]
    exact = (p * (p.log() - q64.log())).sum(1) + t * (t.log() - math.log(qbar))
    q32 = torch.softmax(z, 1).gather(1, ids)
    peer_tail = (1 - q32.sum(1)).clamp_min(1e-7)
    ours = ops.support_logits(z, ids).log_probs()[:, -1].double()
    assert (ours - math.log(qbar)).abs().max() < 1e-5
    if qbar <= 1e-6:
        assert (peer_tail.double().log() - math.log(qbar)).abs().max() > 0.01
    got = ops.sparse_kl(z, ids, p.log(), tail_logp_N=t.log(), reduction="none")
    assert (got.double() - exact).abs().max() < 2e-6


def test_peer_top_k_kl_is_four_losses(make_problem):
    """Each mode has its own value on the same input: the choice cannot be silent."""
    p = make_problem()
    _, logp, tail = teacher(p)
    values = {m: float(ops.sparse_kl(p.dense().detach(), p.ids_NK, logp, tail_logp_N=tail, mode=m)) for m in MODES[:4]}
    found = sorted(values.values())
    assert min(b - a for a, b in pairwise(found)) > 1e-3


def test_peer_clamped_truncated_kl_loses_its_gradient(make_problem):
    """Truncated KL is negative here and keeps its gradient; clamping at 0 (verl) would lose it; tail mode is >= 0."""
    z = torch.tensor([[2.0, 3.0, 0.0, 0.0]], requires_grad=True)
    ids, logp = torch.tensor([[0, 1]]), torch.tensor([[0.3, 0.2]]).log()
    truncated = ops.sparse_kl(z, ids, logp, mode="truncated")
    assert truncated < -0.1
    assert torch.autograd.grad(truncated.clamp_min(0), z, retain_graph=True)[0].abs().max() == 0
    assert torch.autograd.grad(truncated, z)[0].abs().max() > 0.1
    assert ops.sparse_kl(z, ids, logp) > 0


def test_peer_temperature_squared_in_value_or_gradient_only(make_problem):
    """The finite difference of the value is the gradient at T = 3 (axolotl scales one of them), no hidden factor."""
    p = make_problem()
    _, logp, tail = teacher(p, temperature=3.0)
    z = p.dense().detach().requires_grad_()

    def value(x):
        return ops.sparse_kl(x, p.ids_NK, logp, tail_logp_N=tail, temperature=3.0)

    (g,) = torch.autograd.grad(value(z), z)
    d = torch.randn_like(z)
    slope = (value(z.detach() + 1e-5 * d) - value(z.detach() - 1e-5 * d)) / 2e-5
    torch.testing.assert_close((g * d).sum(), slope, rtol=1e-7, atol=1e-9)
    assert abs(slope) > 1e-4
    torch.testing.assert_close(value(z), ops.sparse_kl(z / 3, p.ids_NK, logp, tail_logp_N=tail))


def test_peer_minus_infinity_in_the_teacher(make_problem):
    """-inf teacher log-probabilities give NaN in Liger's JSD; here 0 log 0 = 0."""
    p = make_problem()
    _, logp, tail = teacher(p)
    logp[:, 2] = -inf
    for direction in ("forward", "reverse"):
        loss = ops.linear_sparse_kl(p.hidden_ND, p.weight_VD, p.ids_NK, logp, tail_logp_N=tail, direction=direction)
        assert not loss.isnan()
        assert all(not g.isnan().any() for g in torch.autograd.grad(loss, (p.hidden_ND, p.weight_VD)))
    assert ops.sparse_kl(p.dense(), p.ids_NK, logp, tail_logp_N=tail).isfinite()


def test_peer_smaller_vocabulary_padded_with_zero_logits(make_problem):
    """Zero-logit padding takes probability (Liger); -inf padding takes none and equals the unpadded student."""
    p = make_problem()
    _, logp, tail = teacher(p)
    z = p.dense().detach() / 10
    want = ops.sparse_kl(z, p.ids_NK, logp, tail_logp_N=tail)
    refused = torch.cat([z, z.new_zeros(11, 9)], 1)
    padded = torch.cat([z, z.new_full((11, 9), -inf)], 1).requires_grad_()
    loss = ops.sparse_kl(padded, p.ids_NK, logp, tail_logp_N=tail)
    torch.testing.assert_close(loss, want)
    assert (torch.autograd.grad(loss, padded)[0][:, 37:] == 0).all()
    assert abs(ops.sparse_kl(refused, p.ids_NK, logp, tail_logp_N=tail) - want) > 1e-3


def test_peer_forward_kl_of_equal_inputs_is_the_entropy(make_problem):
    """torchtune's ForwardKLLoss(x, x) is a cross-entropy; ours at K = V is 0."""
    z = torch.randn(4, 9)
    logp = torch.log_softmax(z, 1)
    assert -(logp.exp() * logp).sum(1).mean() > 0.5
    assert abs(ops.sparse_kl(z, torch.arange(9).expand(4, 9), logp)) < 1e-6
