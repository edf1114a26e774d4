"""Several objectives in one pass over the head: the loss and its gradients are those of the sum."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from distill_core import ops
from distill_core.config import ObjectiveRef
from distill_core.engine.head import HeadSpec
from distill_core.engine.objectives import ObjectiveSet
from distill_core.registry import get_registry
from distill_core.types import IGNORE, RowTarget, TeacherSignals, TokenBatch
from tests.objectives.dense import simplex, softmax
from tests.objectives.dense_mixed import LOSSES, kl

B, T, V, D, K = 3, 7, 31, 5, 6
SMOOTHING = 0.1
OBJECTIVES: list[dict[str, Any]] = [
    {"use": "forward-kl", "weight": 1.0},
    {"use": "cross-entropy", "weight": 0.3, "label_smoothing": SMOOTHING},
    {"use": "alpha-beta", "weight": 0.7, "temperature": 2.0},
    {"use": "decoupled-kd", "weight": 0.2, "beta": 2.0},
    {"use": "tail-aware-kl", "weight": 0.4, "modes": 2},
]


def batch() -> TokenBatch:
    """A masked prompt, a padded sequence, uneven token weights."""
    input_ids_BT = torch.randint(0, V, (B, T), generator=torch.Generator().manual_seed(0))
    mask_BT = torch.ones(B, T, dtype=torch.long)
    mask_BT[1, 5:] = 0
    labels_BT = input_ids_BT.masked_fill(mask_BT == 0, IGNORE)
    labels_BT[2, :4] = IGNORE
    weights_BT = torch.linspace(0.5, 2.0, B * T).view(B, T)
    return TokenBatch(input_ids_BT, mask_BT, labels_BT, keys=(bytes(16),) * B, weights_BT=weights_BT)


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def fused(objectives: list[dict[str, Any]], hidden_BTD: Tensor, weight_VD: Tensor) -> tuple[Tensor, Tensor]:
    """The trainer's pass in chunks of 4 rows: the loss, and the sum of each objective before its weight."""
    rows = batch().rows()
    top = ops.topk_logits(3 * normal(9, len(rows), V), K, temperatures=(1.0, 2.0))
    target = RowTarget("exact", top.ids_NK, (1.0, 2.0), logits_NK=top.logits_NK, tail_NM=top.tail_NT)
    chosen = ObjectiveSet.from_config([ObjectiveRef(**one) for one in objectives], get_registry())
    one = chosen.head_pass(
        batch(), {"": TeacherSignals(target=target)}, factors=chosen.weights(0, 1), step=0, total_steps=1, chunk_rows=4
    )
    decoded = SimpleNamespace(last_hidden_state=hidden_BTD, hidden_states=None, attentions=None)
    found = one(decoded, weight_VD, None, HeadSpec())
    return found["loss"], found["sums"]


def dense(hidden_BTD: np.ndarray, weight_VD: np.ndarray) -> float:
    """The same loss over the whole vocabulary in plain numpy, row by row."""
    rows = batch().rows()
    teacher_NV = 3 * normal(9, len(rows), V).numpy()
    ids = np.argsort(-teacher_NV, axis=1)[:, :K]
    student_NV = hidden_BTD[rows.sequence_N.numpy(), rows.position_N.numpy()] @ weight_VD.T
    total = 0.0
    for n, label in enumerate(rows.labels_N.tolist()):
        p, q = (simplex(softmax(x[n : n + 1]), ids[n : n + 1])[0] for x in (teacher_NV, student_NV))
        soft_p, soft_q = (simplex(softmax(x[n : n + 1], 2.0), ids[n : n + 1])[0] for x in (teacher_NV, student_NV))
        column = ids[n].tolist().index(label) if label in ids[n] else K
        logq_V = np.log(softmax(student_NV[n : n + 1])[0])
        row = (
            1.0 * kl(p, q)
            + 0.3 * (-(1 - SMOOTHING) * logq_V[label] - SMOOTHING * logq_V.mean())
            + 0.7 * LOSSES["alpha-beta"](soft_p, soft_q, soft_q, True, column, alpha=0.2, beta=0.7)
            + 0.2 * LOSSES["decoupled-kd"](p, q, q, True, column, beta=2.0)
            + 0.4 * LOSSES["tail-aware-kl"](p, q, q, True, column, modes=2)
        )
        total += float(rows.weights_N[n]) * row
    return total


def test_one_pass_is_the_weighted_sum_over_the_whole_vocabulary() -> None:
    hidden_BTD, weight_VD = normal(1, B, T, D).requires_grad_(True), normal(2, V, D).requires_grad_(True)
    loss, _ = fused(OBJECTIVES, hidden_BTD, weight_VD)
    assert np.isclose(float(loss.detach()), dense(hidden_BTD.detach().numpy(), weight_VD.detach().numpy()), rtol=1e-9)
    gradients = torch.autograd.grad(loss, (hidden_BTD, weight_VD))
    # Central differences along random directions, step 1e-6: errors near 1e-10 of a slope of size 1 to 100.
    point = hidden_BTD.detach(), weight_VD.detach()
    for seed in range(4):
        directions = normal(10 + seed, B, T, D), normal(20 + seed, V, D)
        above, below = (
            dense(*((x + sign * 1e-6 * d).numpy() for x, d in zip(point, directions, strict=True))) for sign in (1, -1)
        )
        slope = sum(float((g * d).sum()) for g, d in zip(gradients, directions, strict=True))
        assert np.isclose(slope, (above - below) / 2e-6, rtol=1e-6)


def test_the_mixture_is_the_sum_of_its_parts_run_alone() -> None:
    hidden_BTD, weight_VD = normal(1, B, T, D).requires_grad_(True), normal(2, V, D).requires_grad_(True)
    loss, sums = fused(OBJECTIVES, hidden_BTD, weight_VD)
    gradients = torch.autograd.grad(loss, (hidden_BTD, weight_VD))
    total, added = 0.0, [torch.zeros_like(gradient) for gradient in gradients]
    for position, objective in enumerate(OBJECTIVES):
        alone, own = fused([objective], hidden_BTD, weight_VD)
        torch.testing.assert_close(own[0], sums[position], rtol=1e-12, atol=0)
        total += float(alone.detach())
        for into, gradient in zip(added, torch.autograd.grad(alone, (hidden_BTD, weight_VD)), strict=True):
            into += gradient
    assert np.isclose(float(loss.detach()), total, rtol=1e-12)
    for found, expected in zip(gradients, added, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
