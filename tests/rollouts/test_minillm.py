"""The gradient of MiniLLM against the exact expectation, by going through every sequence of a tiny vocabulary."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from distill_core import ops
from distill_core.errors import TrainingError
from distill_core.interfaces import BuildContext
from distill_core.types import IGNORE, RowInfo, RowTarget, TeacherSignals, TokenBatch
from tests.objectives.conftest import build

V, T = 3, 3
PROMPT = 1
STUDENT = 1.0

SEQUENCES = list(itertools.product(range(V), repeat=T))
PREFIXES = [prefix for length in range(T) for prefix in itertools.product(range(V), repeat=length)]
ROW_OF = {prefix: row for row, prefix in enumerate(PREFIXES)}


def tables() -> tuple[Tensor, Tensor]:
    """Logits of student and teacher after every prefix, [prefixes, V]."""
    generator = torch.Generator().manual_seed(3)
    student = torch.randn(len(PREFIXES), V, generator=generator, dtype=torch.float64)
    teacher = 1.5 * torch.randn(len(PREFIXES), V, generator=generator, dtype=torch.float64)
    return student, teacher


def rows_of(sequence: tuple[int, ...]) -> list[int]:
    return [ROW_OF[sequence[:t]] for t in range(T)]


def logp_of(table: Tensor, sequence: tuple[int, ...]) -> Tensor:
    """[T] log-probabilities of a sequence's tokens."""
    return table.log_softmax(-1)[rows_of(sequence), list(sequence)]


def exact_gradient() -> Tensor:
    """d KL(q || p) / d student logits, over whole sequences, by autograd through the sum over all of them."""
    student, teacher = tables()
    student.requires_grad_(True)
    total = torch.zeros((), dtype=torch.float64)
    for sequence in SEQUENCES:
        q, p = logp_of(student, sequence).sum(), logp_of(teacher, sequence).sum()
        total = total + q.exp() * (q - p)
    (gradient,) = torch.autograd.grad(total, student)
    return gradient


def behaviour_table(mix: float) -> Tensor:
    student, teacher = tables()
    return (mix * teacher.softmax(-1) + (1 - mix) * student.softmax(-1)).log()


def batch_of(sequence: tuple[int, ...], mix: float, source: float = STUDENT) -> TokenBatch:
    """One sequence with what a rollout notes of it; a prompt token before."""
    student, teacher = tables()
    ids_BT = torch.tensor([[0, *sequence]])
    labels_BT = torch.tensor([[IGNORE, *sequence]])

    def noted(table: Tensor) -> Tensor:
        return torch.cat([torch.tensor([torch.nan], dtype=torch.float64), logp_of(table, sequence)])[None]

    numbers = {
        "behaviour_logp": noted(behaviour_table(mix)),
        "student_logp": noted(student),
        "teacher_logp": noted(teacher),
    }
    return TokenBatch(
        ids_BT,
        torch.ones_like(ids_BT),
        labels_BT,
        keys=(bytes(16),),
        per_token=numbers,
        per_sequence={"source": torch.tensor([source])},
    )


def value_and_gradient(objective: Any, batch: TokenBatch) -> tuple[Tensor, Tensor]:
    """[N] values of one batch, and the gradient of their sum in the student's table."""
    table, teacher = tables()
    table.requires_grad_(True)
    index = batch.rows()
    rows = [r for b in range(len(batch.keys)) for r in rows_of(tuple(batch.input_ids_BT[b, 1:].tolist()))]
    logits_NV, teacher_NV = table[rows], teacher[rows]
    ids_NK = torch.arange(V).expand(len(rows), V)
    target = RowTarget("exact", ids_NK, (1.0,), logits_NK=teacher_NV, tail_NM=torch.full((len(rows), 1), -torch.inf))
    info = RowInfo(index.labels_N, index.sequence_N, index.position_N, extra=batch.row_values(index))
    info = RowInfo(
        index.labels_N,
        index.sequence_N,
        index.position_N,
        extra={**info.extra, **objective.prepare(batch, TeacherSignals(target), info)},
    )
    support = ops.support_logits(logits_NV, ids_NK, labels_N=index.labels_N)
    value_N = objective.rows(support, target, info)
    (gradient,) = torch.autograd.grad(value_N.sum(), table)
    return value_N.detach(), gradient


def expected_gradient(objective: Any, mix: float) -> Tensor:
    """Mean of the objective's gradient over every sequence, each with the probability of being drawn."""
    total = torch.zeros(len(PREFIXES), V, dtype=torch.float64)
    for sequence in SEQUENCES:
        weight = float(logp_of(behaviour_table(mix), sequence).sum().exp())
        total += weight * value_and_gradient(objective, batch_of(sequence, mix))[1]
    return total


@pytest.mark.parametrize("single_step", [True, False], ids=["single-step", "reinforce"])
@pytest.mark.parametrize(("mix", "importance"), [(0.0, "none"), (0.0, "token"), (0.0, "sequence"), (0.4, "sequence")])
def test_the_mean_gradient_is_that_of_the_sequence_level_reverse_kl(
    single_step: bool, mix: float, importance: str
) -> None:
    objective = build("minillm", single_step=single_step, importance=importance, length_norm=False)
    # `now` and `later` are handed over in float32
    torch.testing.assert_close(expected_gradient(objective, mix), exact_gradient(), rtol=1e-5, atol=1e-6)


def test_what_the_paper_approximates_is_biased() -> None:
    """Token-wise importance weights under a mixture, and the length norm: lower variance, another mean."""
    for options in ({"importance": "token", "length_norm": False}, {"importance": "none", "length_norm": True}):
        mix = 0.4 if options["importance"] == "token" else 0.0
        gap = (expected_gradient(build("minillm", **options), mix) - exact_gradient()).abs().max()
        assert float(gap) > 1e-3


def test_single_step_lowers_the_variance() -> None:
    def variance(single_step: bool) -> float:
        objective = build("minillm", single_step=single_step, importance="none", length_norm=False)
        mean, total = exact_gradient(), 0.0
        for sequence in SEQUENCES:
            gradient = value_and_gradient(objective, batch_of(sequence, 0.0))[1]
            weight = float(logp_of(behaviour_table(0.0), sequence).sum().exp())
            total += weight * float((gradient - mean).square().sum())
        return total

    assert variance(True) < 0.8 * variance(False)


@pytest.mark.parametrize("importance", ["token", "sequence", "none"])
@pytest.mark.parametrize("length_norm", [True, False])
@pytest.mark.parametrize("single_step", [True, False])
def test_factors_against_loops(importance: str, length_norm: bool, single_step: bool) -> None:
    """Every token's own divergence and the factor of grad log q, written out with loops over one sequence."""
    mix, sequence = 0.3, (2, 0, 1)
    objective = build("minillm", importance=importance, length_norm=length_norm, single_step=single_step)
    value_N, gradient = value_and_gradient(objective, batch_of(sequence, mix))
    student, teacher = (table.numpy() for table in tables())
    q = np.exp(student) / np.exp(student).sum(-1, keepdims=True)
    p = np.exp(teacher) / np.exp(teacher).sum(-1, keepdims=True)
    b = mix * p + (1 - mix) * q
    at = [(ROW_OF[sequence[:t]], sequence[t]) for t in range(T)]
    reward = [float(np.log(p[i] / q[i])) for i in at]
    ratio = [float(q[i] / b[i]) for i in at]
    if importance == "none":
        ratio = [1.0] * T
    expected = np.zeros_like(student)
    for t, (row, token) in enumerate(at):
        if importance == "sequence":
            weights = [float(np.prod(ratio[: u + 1])) for u in range(T)]
            before = float(np.prod(ratio[:t]))
            later = sum(weights[u] * reward[u] for u in range(t + 1, T))
        else:
            weights, before = ratio, ratio[t]
            later = ratio[t] * sum(reward[t + 1 :])
        if length_norm and t + 1 < T:
            later /= T - t - 1
        score = -q[row].copy()
        score[token] += 1
        if single_step:
            gap = np.log(q[row] / p[row])
            kl = float((q[row] * gap).sum())
            assert float(value_N[t]) == pytest.approx(before * kl, rel=1e-5)
            expected[row] += before * q[row] * (gap - kl) - later * score
        else:
            assert float(value_N[t]) == pytest.approx(-weights[t] * reward[t], rel=1e-5)
            expected[row] -= (weights[t] * reward[t] + later - weights[t]) * score
    np.testing.assert_allclose(gradient.numpy(), expected, rtol=1e-4, atol=1e-6)


def test_sequences_of_others_count_nothing() -> None:
    objective = build("minillm")
    teachers = batch_of((0, 1, 2), 0.0, source=2.0)
    assert objective.count(teachers) == 0.0
    value_N, gradient = value_and_gradient(objective, teachers)
    assert value_N.tolist() == [0.0] * T and float(gradient.abs().max()) == 0.0
    assert objective.count(batch_of((0, 1, 2), 0.0)) == T


def test_held_out_batches_show_the_reverse_kl_of_every_token() -> None:
    batch = batch_of((0, 1, 2), 0.0)
    plain = TokenBatch(batch.input_ids_BT, batch.attention_mask_BT, batch.labels_BT, keys=batch.keys)
    objective = build("minillm")
    student, teacher = tables()
    q_NV, p_NV = student[rows_of((0, 1, 2))].log_softmax(-1), teacher[rows_of((0, 1, 2))].log_softmax(-1)
    torch.testing.assert_close(value_and_gradient(objective, plain)[0], (q_NV.exp() * (q_NV - p_NV)).sum(-1))
    assert objective.count(plain) == T


def test_a_batch_without_rows() -> None:
    batch = batch_of((0, 1, 2), 0.0)
    empty = torch.zeros(0, dtype=torch.long)
    info = RowInfo(empty, empty, empty, extra=dict.fromkeys(["source", *batch.per_token], torch.zeros(0)))
    prepared = build("minillm").prepare(batch, TeacherSignals(), info)
    assert [len(value) for value in prepared.values()] == [0, 0]


def test_wrong_use() -> None:
    objective = build("minillm")
    with pytest.raises(TrainingError, match=r"the training has no rollout: add `rollout: \{use: on-policy"):
        objective.build(BuildContext(torch.nn.Linear(1, 1), None, 1, 0, lambda *a: None))
    batch = batch_of((0, 1, 2), 0.0)
    unread = TokenBatch(
        batch.input_ids_BT,
        batch.attention_mask_BT,
        batch.labels_BT,
        keys=batch.keys,
        per_token={**batch.per_token, "teacher_logp": torch.full((1, T + 1), torch.nan)},
        per_sequence=batch.per_sequence,
    )
    with pytest.raises(TrainingError, match=r"reads teacher_logp .* set rollout.teacher_mix above 0, or rollout.score"):
        value_and_gradient(objective, unread)
