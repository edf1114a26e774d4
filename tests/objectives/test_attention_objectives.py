"""Objectives on attentions and their projections against the formulas written out in float64.

Legend: B sequences, T positions, H heads, E width of a projection.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from distill_core.errors import SignalError
from distill_core.registry import get_registry
from distill_core.types import StudentView, TeacherSignals
from tests.objectives.conftest import build
from tests.objectives.feature_scene import LENGTHS, batch, built, compare, config, maps, places, states

TEACHER = config(layers=5, width=48, heads=6, shared=3)
ATTENTION = ("attention-maps", "minilm", "minilm-v2")


def kl(p: Tensor, q: Tensor) -> Tensor:
    return sum(
        (a * (a.log() - b.log()) for a, b in zip(p, q, strict=True) if float(a) > 0), torch.zeros((), dtype=p.dtype)
    )


def seen(b: int, t: int, mask: str) -> list[int]:
    return [s for s in range(LENGTHS[b]) if mask == "full" or s <= t]


def relation(values: Tensor, b: int, t: int, head: int, heads: int, mask: str) -> Tensor:
    size = values.shape[-1] // heads
    part = values[b][:, head * size : (head + 1) * size]
    return torch.stack([part[t] @ part[s] / math.sqrt(size) for s in seen(b, t, mask)]).softmax(0)


def relations(student: Tensor, teacher: Tensor, b: int, t: int, heads: int, mask: str) -> Tensor:
    parts = [kl(relation(teacher, b, t, h, heads, mask), relation(student, b, t, h, heads, mask)) for h in range(heads)]
    return torch.stack(parts).mean()


def attended(student: Tensor, teacher: Tensor, b: int, t: int, distance: str, mask: str) -> Tensor:
    if student.shape[1] != teacher.shape[1]:
        student, teacher = student.mean(1, keepdim=True), teacher.mean(1, keepdim=True)
    parts = []
    for head in range(student.shape[1]):
        p, q = (x[b, head, t][seen(b, t, mask)] for x in (teacher, student))
        parts.append(kl(p, q) if distance == "kl" else (p - q).square().sum() / LENGTHS[b])
    return torch.stack(parts).mean()


@pytest.mark.parametrize("distance", ["mse", "kl"])
@pytest.mark.parametrize("heads", [4, 6])
@pytest.mark.parametrize("mask", ["causal", "full"])
@pytest.mark.parametrize("positions", ["rows", "tokens"])
def test_attention_maps(distance: str, heads: int, mask: str, positions: str) -> None:
    objective = built("attention-maps", TEACHER, distance=distance, mask=mask, positions=positions)
    student, teacher = maps(2, 4, 1, causal=mask == "causal"), maps(5, heads, 2, causal=mask == "causal")

    def mine(own: tuple[Tensor, ...]) -> Tensor:
        view = StudentView(hidden_states=(), attentions=own)
        return objective(view, TeacherSignals(attentions=teacher), batch()).total

    def formula(own: tuple[Tensor, ...]) -> Tensor:
        pairs = [(1, 2), (2, 5)]
        return sum(
            w * attended(own[i - 1], teacher[j - 1], b, t, distance, mask) / len(pairs)
            for i, j in pairs
            for b, t, w in places(positions)
        )

    compare(mine, formula, student)
    assert objective.count(batch()) == len(places(positions))


@pytest.mark.parametrize("mask", ["causal", "full"])
@pytest.mark.parametrize(("given", "used"), [(None, 2), (4, 4)])
def test_minilm(mask: str, given: int | None, used: int) -> None:
    """Values of width 16 and 24, the teacher's 3 key-value heads do not divide 16."""
    objective = built("minilm", TEACHER, mask=mask, attention_weight=0.7, relation_heads=given)
    student, teacher = maps(2, 4, 1, causal=mask == "causal"), maps(5, 6, 2, causal=mask == "causal")
    own_values, teacher_values = states(2, 16, 3), states(5, 24, 4)

    def mine(own: tuple[Tensor, ...]) -> Tensor:
        view = StudentView(hidden_states=(), attentions=(student[0], own[0]), extra={"values": (own_values[0], own[1])})
        answer = TeacherSignals(attentions=teacher, extra={"values": teacher_values})
        return objective(view, answer, batch()).total

    def formula(own: tuple[Tensor, ...]) -> Tensor:
        return sum(
            w
            * (
                0.7 * attended(own[0], teacher[-1], b, t, "kl", mask)
                + relations(own[1], teacher_values[-1], b, t, used, mask)
            )
            for b, t, w in places()
        )

    compare(mine, formula, (student[1], own_values[1]))


@pytest.mark.parametrize("mask", ["causal", "full"])
def test_minilm_v2(mask: str) -> None:
    """Queries of width 32 and 48, keys and values of 16 and 24: 6 teacher heads become 4."""
    objective = built("minilm-v2", TEACHER, mask=mask, layers=[[2, 4]])
    widths = {"queries": (32, 48), "keys": (16, 24), "values": (16, 24)}
    teacher = {signal: states(5, width, 20 + i) for i, (signal, (_, width)) in enumerate(widths.items())}
    student = {signal: states(2, width, 30 + i) for i, (signal, (width, _)) in enumerate(widths.items())}

    def mine(own: tuple[Tensor, ...]) -> Tensor:
        extra = {signal: (student[signal][0], value) for signal, value in zip(widths, own, strict=True)}
        return objective(StudentView((), extra=extra), TeacherSignals(extra=teacher), batch()).total

    # common divisor 8 of all widths; the largest number up to the teacher's 6 heads that divides it is 4
    def formula(own: tuple[Tensor, ...]) -> Tensor:
        return sum(
            w * relations(value, teacher[signal][3], b, t, 4, mask)
            for signal, value in zip(widths, own, strict=True)
            for b, t, w in places()
        )

    compare(mine, formula, tuple(student[signal][1] for signal in widths))


def everything(objective: Any, student_heads: int = 4) -> tuple[StudentView, TeacherSignals]:
    extra = {signal: states(2, 16, 1) for signal in ("queries", "keys", "values")}
    theirs = {signal: states(5, 24, 2) for signal in extra}
    return StudentView((), maps(2, student_heads, 1), extra), TeacherSignals(None, None, maps(5, 6, 2), theirs)


@pytest.mark.parametrize("name", ATTENTION)
def test_refusals(name: str) -> None:
    with pytest.raises(SignalError, match=rf"{name} needs the teacher's .*train.teacher: live"):
        built(name, None)
    with pytest.raises(SignalError, match=rf"{name}: layers names the pair \[2, 6\].*blocks 1 .. 2 and the teacher 1"):
        built(name, TEACHER, layers=[[2, 6]])
    objective = built(name, TEACHER)
    student, teacher = everything(objective)
    signal = objective.signals[0]
    with pytest.raises(SignalError, match=f"{name} needs the teacher's {signal}, but the teacher sent none"):
        objective(student, TeacherSignals(), batch())
    with pytest.raises(SignalError, match=f"{name} needs the student's {signal}, but the student sent none"):
        objective(StudentView(()), teacher, batch())
    with pytest.raises(RuntimeError, match=f"{name}: call build"):
        build(name)(student, teacher, batch())
    if name != "attention-maps":
        divided = built(name, TEACHER, relation_heads=5)
        with pytest.raises(SignalError, match=r"relation_heads 5 does not divide every width.*divisor of 8"):
            divided(student, teacher, batch())
    if name != "minilm-v2":
        matched = built(name, TEACHER, heads="match")
        with pytest.raises(SignalError, match="student has 4 heads and the teacher 6: use heads: mean"):
            matched(student, teacher, batch())


def test_only_the_signals_that_are_used_are_asked_for() -> None:
    def needs(name: str, **options: Any) -> frozenset[str]:
        from distill_core.config import ObjectiveRef

        return get_registry().needs("objective", ObjectiveRef.model_validate({"use": name, **options})).signals

    assert needs("minilm") == {"attentions", "values"}
    assert needs("minilm", attention_weight=0) == {"values"}
    assert needs("minilm-v2", relations=["keys"]) == {"keys"}


def test_a_students_zero_under_a_teachers_weight_is_finite() -> None:
    objective = built("attention-maps", config(layers=2), distance="kl", layers="last")
    teacher = maps(2, 4, 2)
    student = tuple(torch.zeros_like(x).requires_grad_(True) for x in teacher)
    total = objective(StudentView((), student), TeacherSignals(attentions=teacher), batch()).total
    total.backward()
    assert bool(torch.isfinite(total)) and float(total.detach()) > 1
    assert student[-1].grad is not None and bool(torch.isfinite(student[-1].grad).all())
