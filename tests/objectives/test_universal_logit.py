"""universal-logit: value and gradient against the dense float64 loss, rows that count for nothing, wrong use."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from distill_core import ops
from distill_core.errors import SignalError
from distill_core.types import RowInfo, TeacherSignals, TokenBatch
from distill_objectives.universal_logit import RANKED, UniversalLogit
from distill_objectives.universal_logit_options import UniversalLogitOptions

ROWS, STUDENT, TEACHER, WIDTH = 7, 11, 17, 5


def problem(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Student hidden states and head, teacher logits over another vocabulary; from flat to peaked."""
    generator = torch.Generator().manual_seed(seed)
    hidden, head, teacher = (
        torch.randn(*shape, generator=generator, dtype=torch.float64)
        for shape in ((ROWS, WIDTH), (STUDENT, WIDTH), (ROWS, TEACHER))
    )
    return hidden.requires_grad_(), head.requires_grad_(), teacher * torch.linspace(0.1, 30, ROWS)[:, None]


def dense(student_NV: Tensor, teacher_NU: Tensor) -> Tensor:
    """The paper's loss: both sorted, the smaller vocabulary filled up with zeros."""
    q = student_NV.softmax(1).sort(1, descending=True).values
    p = teacher_NU.softmax(1).sort(1, descending=True).values
    return (torch.nn.functional.pad(q, (0, TEACHER - STUDENT)) - p).abs().sum(1)


def ranked(teacher_NU: Tensor, k: int) -> Tensor:
    logp = teacher_NU.log_softmax(1).sort(1, descending=True).values
    rest = logp[:, k:].logsumexp(1, keepdim=True) if k < TEACHER else torch.full((ROWS, 1), -torch.inf)
    return torch.cat([logp[:, :k], rest], 1)


def value(hidden: Tensor, head: Tensor, ranked_NL1: Tensor, k: int, shuffle: bool = False) -> Tensor:
    """Through the op, on the student's own top k as the engine gives it; ``shuffle``: in any order."""
    objective = UniversalLogit(UniversalLogitOptions(k=k))
    ids = (hidden @ head.T).topk(min(objective.student_support, STUDENT), dim=1).indices
    ids = ids.sort(1).values if shuffle else ids
    support = ops.linear_support_logits(hidden, head, ids)
    zeros = torch.zeros(ROWS, dtype=torch.int64)
    return objective.rows(support, None, RowInfo(zeros, zeros, zeros, extra={RANKED: ranked_NL1}))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_whole_vocabularies_give_the_dense_loss(seed: int) -> None:
    """K as large as both vocabularies; upstream gradients other than 1."""
    hidden, head, teacher = problem(seed)
    weights = torch.linspace(-2, 3, ROWS, dtype=torch.float64)
    # The student's largest 11 cover its vocabulary; the teacher's other 6 face zeros, which fold into one outcome.
    found, expected = value(hidden, head, ranked(teacher, TEACHER), TEACHER), dense(hidden @ head.T, teacher)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    ours = torch.autograd.grad((found * weights).sum(), (hidden, head))
    theirs = torch.autograd.grad((expected * weights).sum(), (hidden, head))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


@pytest.mark.parametrize("shuffle", [False, True], ids=["falling", "by-id"])
@pytest.mark.parametrize(("k", "length"), [(3, 3), (3, 8), (8, 3), (1, 1)])
def test_a_lower_bound_whatever_the_lengths(k: int, length: int, shuffle: bool) -> None:
    hidden, head, teacher = problem(4)
    found = value(hidden, head, ranked(teacher, length), k, shuffle)
    width = min(k, length)
    q = (hidden @ head.T).softmax(1).sort(1, descending=True).values
    p = teacher.softmax(1).sort(1, descending=True).values
    head_part = (q[:, :width] - p[:, :width]).abs().sum(1)
    expected = head_part + (q[:, width:].sum(1) - p[:, width:].sum(1)).abs()
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    assert bool((found <= dense(hidden @ head.T, teacher) + 1e-12).all())


def test_zero_where_equal_and_where_not_aligned() -> None:
    hidden, head, teacher = problem(5)
    student = (hidden @ head.T).detach()
    logp = student.log_softmax(1).sort(1, descending=True).values
    same = torch.cat([logp, torch.full((ROWS, 1), -torch.inf)], 1)
    assert float(value(hidden, head, same, STUDENT).detach().abs().max()) < 1e-12
    unaligned = ranked(teacher, 4)
    unaligned[2:] = -torch.inf
    found = value(hidden, head, unaligned, 4)
    assert found[2:].tolist() == [0.0] * (ROWS - 2) and float(found[:2].detach().min()) > 0
    (gradient,) = torch.autograd.grad(found.sum(), hidden)
    assert bool((gradient[2:] == 0).all()) and bool(torch.isfinite(gradient).all())


def test_no_rows() -> None:
    hidden, head, _ = problem(0)
    support = ops.linear_support_logits(hidden[:0], head, torch.zeros(0, 3, dtype=torch.int64))
    none = torch.zeros(0, dtype=torch.int64)
    info = replace(RowInfo(none, none, none), extra={RANKED: torch.zeros(0, 4)})
    assert UniversalLogit(UniversalLogitOptions(k=3)).rows(support, None, info).shape == (0,)


def test_a_teacher_without_an_aligner_is_refused() -> None:
    one = torch.zeros(1, 2, dtype=torch.int64)
    batch = TokenBatch(one, one + 1, one, (bytes(16),))
    with pytest.raises(SignalError, match=r"ranked_log_probs.*come from an aligner.*live teacher"):
        UniversalLogit(UniversalLogitOptions()).prepare(batch, TeacherSignals(), RowInfo(one[0], one[0], one[0]))
