"""DistiLLM-2 against dense sums in numpy: the direction by source, one mean per sequence, the adaptive alpha."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from distill_core import ops
from distill_core.interfaces import BuildContext
from distill_core.types import IGNORE, RowInfo, RowTarget, TeacherSignals, TokenBatch
from tests.objectives.conftest import build, exact_target
from tests.objectives.dense import kl, simplex, softmax

V, K = 11, 4
LENGTHS = (3, 1, 4, 2)
SOURCES = (2.0, 1.0, 1.0, 0.0)


def problem(*, scale: float = 1.0) -> tuple[Tensor, Tensor, Tensor, TokenBatch]:
    """Student and teacher logits [N, V], a support [N, K], and the batch, with log-probabilities of its labels."""
    generator = torch.Generator().manual_seed(5)
    n = sum(LENGTHS)
    teacher_NV = 2 * torch.randn(n, V, generator=generator, dtype=torch.float64)
    student_NV = scale * torch.randn(n, V, generator=generator, dtype=torch.float64)
    ids_NK = torch.stack([torch.randperm(V, generator=generator)[:K] for _ in range(n)])
    width = max(LENGTHS) + 1
    labels_BT = torch.full((len(LENGTHS), width), IGNORE)
    for b, length in enumerate(LENGTHS):
        labels_BT[b, 1 : 1 + length] = torch.randint(0, V, (length,), generator=generator)
    mask_BT = (torch.arange(width) <= torch.tensor(LENGTHS)[:, None]).long()
    batch = TokenBatch(labels_BT.clamp_min(0), mask_BT, labels_BT, keys=(bytes(16),) * len(LENGTHS))
    rows = batch.rows()

    def laid(logits_NV: Tensor) -> Tensor:
        values_BT = torch.full(labels_BT.shape, torch.nan, dtype=torch.float64)
        logp_N = logits_NV.log_softmax(-1).gather(1, rows.labels_N[:, None])[:, 0]
        return values_BT.index_put((rows.sequence_N, rows.position_N + 1), logp_N)

    noted = TokenBatch(
        batch.input_ids_BT,
        mask_BT,
        labels_BT,
        keys=batch.keys,
        per_token={"teacher_logp": laid(teacher_NV), "student_logp": laid(student_NV)},
        per_sequence={"source": torch.tensor(SOURCES)},
    )
    return student_NV, teacher_NV, ids_NK, noted


def evaluated(objective: Any, student_NV: Tensor, target: RowTarget, batch: TokenBatch, **at: int) -> Tensor:
    index = batch.rows()
    own = (index.labels_N, index.sequence_N, index.position_N, at.get("step", 0), at.get("total_steps", 1))
    info = RowInfo(*own, extra=batch.row_values(index))
    info = RowInfo(*own, extra={**info.extra, **objective.prepare(batch, TeacherSignals(target), info)})
    support = ops.support_logits(student_NV, target.ids_NK, labels_N=index.labels_N)
    value: Tensor = objective.rows(support, target, info)
    return value


def expected(alphas: list[float], beta: float, *, whole: bool) -> float:
    """Half the sum over pairs would be this, had every prompt one of each: mean over sequences of mean over tokens."""
    student_NV, teacher_NV, ids_NK, _ = problem()
    ids = np.tile(np.arange(V), (len(ids_NK), 1)) if whole else ids_NK.numpy()
    p, q = (simplex(softmax(z.numpy()), ids) for z in (teacher_NV, student_NV))
    total, row = 0.0, 0
    for length, source, alpha in zip(LENGTHS, SOURCES, alphas, strict=True):
        own = slice(row, row + length)
        row += length
        if source == 1:
            values = beta * kl(q[own], (1 - alpha) * p[own] + alpha * q[own])
        else:
            values = (2 - beta) * kl(p[own], alpha * p[own] + (1 - alpha) * q[own])
        total += float(values.mean())
    return total / len(LENGTHS)


@pytest.mark.parametrize("whole", [False, True], ids=["sparse", "dense"])
@pytest.mark.parametrize(("alpha", "beta"), [(0.1, 1.0), (0.4, 0.3), (0.05, 2.0)])
def test_value_and_gradient(alpha: float, beta: float, whole: bool) -> None:
    student_NV, teacher_NV, ids_NK, batch = problem()
    ids_NK = torch.arange(V).expand(len(ids_NK), V) if whole else ids_NK
    target = exact_target(teacher_NV, ids_NK)
    objective = build("distillm-2", alpha=alpha, beta=beta)

    def loss(logits_NV: Tensor) -> Tensor:
        return evaluated(objective, logits_NV, target, batch).sum() / objective.count(batch)

    # shares and alphas of rows are handed over in float32
    assert float(loss(student_NV)) == pytest.approx(expected([alpha] * 4, beta, whole=whole), rel=1e-6)
    student_NV.requires_grad_(True)
    (gradient_NV,) = torch.autograd.grad(loss(student_NV), student_NV)
    direction_NV = torch.randn(student_NV.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    with torch.no_grad():
        rise = loss(student_NV + 1e-6 * direction_NV) - loss(student_NV - 1e-6 * direction_NV)
    assert float((gradient_NV * direction_NV).sum()) == pytest.approx(float(rise) / 2e-6, rel=1e-6)


def test_zero_at_equality() -> None:
    _, teacher_NV, ids_NK, batch = problem()
    value_N = evaluated(build("distillm-2"), teacher_NV, exact_target(teacher_NV, ids_NK), batch)
    assert float(value_N.abs().max()) <= 1e-12


def test_alpha_follows_the_gaps_of_earlier_steps() -> None:
    """``clip(1 - (1 - alpha) m / (gap + 1e-5), 0.01, alpha)``, m the mean gap of that source so far, by loops."""
    alpha = 0.3
    student_NV, teacher_NV, ids_NK, batch = problem()
    target = exact_target(teacher_NV, ids_NK)
    objective = build("distillm-2", alpha=alpha, adaptive_alpha=True)

    def value() -> float:
        return float(evaluated(objective, student_NV, target, batch).sum()) / 4

    labels = batch.rows().labels_N.numpy()
    gaps, row = [], 0
    for length, source in zip(LENGTHS, SOURCES, strict=True):
        at = (np.arange(row, row + length), labels[row : row + length])
        row += length
        p, q = (float(np.exp(np.log(softmax(z.numpy())[at]).mean())) for z in (teacher_NV, student_NV))
        gaps.append(q - p if source == 1 else p - q)
    known = {1: float(np.mean(gaps[1:3])), 0: float(np.mean([gaps[0], gaps[3]]))}
    adapted = []
    for gap, source in zip(gaps, SOURCES, strict=True):
        raw = 1 - (1 - alpha) * known[int(source == 1)] / (gap + 1e-5)
        adapted.append(min(alpha, max(0.01, raw)))
    assert value() == pytest.approx(expected([alpha] * 4, 1.0, whole=False), rel=1e-6)  # nothing is known yet
    objective.on_step_end(None)
    assert value() == pytest.approx(expected(adapted, 1.0, whole=False), rel=1e-6)
    assert len({round(one, 6) for one in adapted}) > 1
    again = build("distillm-2", alpha=alpha, adaptive_alpha=True)
    again.load_state_dict(objective.state_dict())
    assert again.state_dict() == objective.state_dict()


def test_beta_may_be_a_schedule() -> None:
    from distill_core.registry import get_registry

    student_NV, teacher_NV, ids_NK, batch = problem()
    target = exact_target(teacher_NV, ids_NK)
    objective = build("distillm-2", beta={"use": "linear", "start": 1.0, "end": 1.5})
    with pytest.raises(RuntimeError, match=r"beta is a schedule: call build"):
        evaluated(objective, student_NV, target, batch)
    objective.build(BuildContext(torch.nn.Linear(1, 1), None, 3, 0, get_registry().build, rollout=object()))
    for step, beta in enumerate((1.0, 1.25, 1.5)):
        value_N = evaluated(objective, student_NV, target, batch, step=step, total_steps=3)
        assert float(value_N.sum()) / 4 == pytest.approx(expected([0.1] * 4, beta, whole=False), rel=1e-6)


def test_a_batch_of_the_data_alone_is_compared_like_the_teachers() -> None:
    student_NV, teacher_NV, ids_NK, batch = problem()
    plain = TokenBatch(batch.input_ids_BT, batch.attention_mask_BT, batch.labels_BT, keys=batch.keys)
    target = exact_target(teacher_NV, ids_NK)
    values_N = evaluated(build("distillm-2"), student_NV, target, plain)
    p, q = (simplex(softmax(z.numpy()), ids_NK.numpy()) for z in (teacher_NV, student_NV))
    lengths_N = np.repeat(LENGTHS, LENGTHS)
    np.testing.assert_allclose(values_N.detach(), kl(p, 0.1 * p + 0.9 * q) / lengths_N, rtol=1e-6)
