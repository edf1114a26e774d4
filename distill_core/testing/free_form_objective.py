"""Conformance of free-form objectives, on a padded batch of three sequences with masked labels.

Legend: B sequences, T positions, S student width, D teacher width, H heads.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from distill_core.testing.material import build_context, finite_difference_error, random_batch
from distill_core.testing.subject import NotApplicable, Subject
from distill_core.types import LossTerm, StudentView, TeacherSignals, TokenBatch

STUDENT_WIDTH, TEACHER_WIDTH, N_LAYERS = 4, 6, 2

Scene = tuple[Any, StudentView, TeacherSignals, TokenBatch]


def scene(subject: Subject) -> Scene:
    """The objective after ``build(ctx)``, and signals of all kinds that it may ask for, in float32."""
    objective = subject.build()
    if hasattr(objective, "rows"):
        raise NotApplicable("a row objective")
    unknown = subject.needs().signals - {"hidden_states", "attentions"}
    if unknown:
        raise NotApplicable(f"needs signals the kit cannot make: {sorted(unknown)}")
    if hasattr(objective, "build"):
        objective.build(build_context(subject.registry, student_width=STUDENT_WIDTH, teacher_width=TEACHER_WIDTH))
    batch = random_batch(0)
    generator = torch.Generator().manual_seed(1)
    n_sequences, length = batch.input_ids_BT.shape

    def hidden(width: int) -> tuple[Tensor, ...]:
        return tuple(torch.randn(n_sequences, length, width, generator=generator) for _ in range(N_LAYERS + 1))

    def attention() -> tuple[Tensor, ...]:
        shape = (n_sequences, 2, length, length)
        return tuple(torch.randn(shape, generator=generator).softmax(-1) for _ in range(N_LAYERS))

    student = StudentView(hidden_states=hidden(STUDENT_WIDTH), attentions=attention())
    teacher = TeacherSignals(hidden_states=hidden(TEACHER_WIDTH), attentions=attention())
    return objective, student, teacher, batch


def with_gradient(student: StudentView) -> tuple[StudentView, list[Tensor]]:
    """A copy whose tensors collect gradients, and those tensors."""
    hidden = tuple(value.detach().clone().requires_grad_(True) for value in student.hidden_states)
    attentions = tuple(value.detach().clone().requires_grad_(True) for value in student.attentions or ())
    return StudentView(hidden_states=hidden, attentions=attentions), [*hidden, *attentions]


def gradients(objective: Any, student: StudentView, teacher: TeacherSignals, batch: TokenBatch) -> list[Tensor]:
    """Gradients of the total in the student's signals (zeros where unused)."""
    view, leaves = with_gradient(student)
    total = objective(view, teacher, batch).total
    assert total.requires_grad, "the total carries no gradient to the student's signals"
    found = torch.autograd.grad(total, leaves, allow_unused=True)
    return [torch.zeros_like(leaf) if grad is None else grad for leaf, grad in zip(leaves, found, strict=True)]


def returns_a_finite_scalar_sum_with_a_gradient(subject: Subject) -> None:
    objective, student, teacher, batch = scene(subject)
    term = objective(student, teacher, batch)
    assert isinstance(term, LossTerm), f"returned {type(term).__name__}, expected distill_core.types.LossTerm"
    assert term.total.dim() == 0, f"total has shape {tuple(term.total.shape)}; expected a scalar, the sum"
    assert bool(torch.isfinite(term.total.detach())), f"total is {term.total.item()}"
    assert any(bool(g.ne(0).any()) for g in gradients(objective, student, teacher, batch)), "every gradient is zero"


def sum_and_count_add_up_over_split_batches(subject: Subject) -> None:
    """Float32 sums of a few dozen terms: relative 1e-5."""
    objective, student, teacher, batch = scene(subject)
    whole = objective(student, teacher, batch).total
    parts, counts = torch.zeros(()), 0.0
    count = getattr(objective, "count", lambda batch: float(len(batch.rows())))
    for start, stop in ((0, 1), (1, 3)):
        cut = slice(start, stop)
        part = batch.select_sequences(start, stop)
        parts = parts + objective(_cut_student(student, cut), _cut_teacher(teacher, cut), part).total
        counts += float(count(part))
    torch.testing.assert_close(parts, whole.to(parts.dtype), rtol=1e-5, atol=1e-6)
    assert abs(counts - float(count(batch))) <= 1e-6 * max(1.0, counts), "count(batch) does not add up over splits"
    assert counts > 0, "count(batch) is 0 for a batch with rows"


def _cut(values: tuple[Tensor, ...] | None, cut: slice) -> tuple[Tensor, ...] | None:
    return None if values is None else tuple(value[cut] for value in values)


def _cut_student(student: StudentView, cut: slice) -> StudentView:
    return StudentView(_cut(student.hidden_states, cut) or (), _cut(student.attentions, cut))


def _cut_teacher(teacher: TeacherSignals, cut: slice) -> TeacherSignals:
    return replace(teacher, hidden_states=_cut(teacher.hidden_states, cut), attentions=_cut(teacher.attentions, cut))


def masked_positions_have_no_influence_even_as_nan(subject: Subject) -> None:
    """Hidden states at positions that predict nothing are NaN: value and gradient stay what they were."""
    objective, student, teacher, batch = scene(subject)
    if subject.needs().signals == {"attentions"}:
        raise NotApplicable("reads attentions alone, whose positions are not rows")
    rows = batch.rows()
    idle_BT = torch.ones_like(batch.input_ids_BT, dtype=torch.bool)
    idle_BT[rows.sequence_N, rows.position_N] = False

    def dirty(values: tuple[Tensor, ...] | None) -> tuple[Tensor, ...]:
        return tuple(value.masked_fill(idle_BT[:, :, None], math.nan) for value in values or ())

    student_nan = replace(student, hidden_states=dirty(student.hidden_states))
    teacher_nan = replace(teacher, hidden_states=dirty(teacher.hidden_states))
    clean_total = objective(student, teacher, batch).total
    torch.testing.assert_close(objective(student_nan, teacher_nan, batch).total, clean_total, rtol=0, atol=0)
    clean = gradients(objective, student, teacher, batch)
    for found, wanted in zip(gradients(objective, student_nan, teacher_nan, batch), clean, strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=0)


def gradient_is_the_derivative_of_the_sum(subject: Subject) -> None:
    """Central differences with step 1e-2 in float32 (rounding 1e-7 / 1e-2, curvature 1e-4): 2 %."""
    objective, student, teacher, batch = scene(subject)
    if not getattr(objective, "properties", {}).get("exact_gradient", True):
        raise NotApplicable("does not declare exact_gradient")
    used = [bool(g.ne(0).any()) for g in gradients(objective, student, teacher, batch)][: N_LAYERS + 1]
    if not any(used):
        raise NotApplicable("does not read hidden states")
    layer = used.index(True)

    def total(hidden_BTS: Tensor) -> Tensor:
        states = list(student.hidden_states)
        states[layer] = hidden_BTS
        value: Tensor = objective(replace(student, hidden_states=tuple(states)), teacher, batch).total
        return value

    error = finite_difference_error(total, student.hidden_states[layer], step=1e-2, directions=4)
    assert error <= 0.02, f"the gradient differs from the derivative of the value by {error:.3g} of it"


def does_not_edit_the_signals(subject: Subject) -> None:
    objective, student, teacher, batch = scene(subject)
    tensors = [*student.hidden_states, *(student.attentions or ()), *(teacher.hidden_states or ())]
    tensors += [*(teacher.attentions or ()), batch.input_ids_BT, batch.labels_BT, batch.attention_mask_BT]
    before = [tensor.clone() for tensor in tensors]
    objective(student, teacher, batch)
    for tensor, saved in zip(tensors, before, strict=True):
        torch.testing.assert_close(tensor, saved, rtol=0, atol=0, msg="a signal was edited in place")


def a_missing_signal_raises_a_sentence(subject: Subject) -> None:
    objective, student, _, batch = scene(subject)
    if not subject.needs().signals:
        raise NotApplicable("needs no teacher")
    try:
        objective(student, TeacherSignals(), batch)
    except Exception as error:
        named = any(signal.replace("_", " ") in str(error).replace("_", " ") for signal in subject.needs().signals)
        assert named, f"the error does not name the missing signal: {type(error).__name__}: {error}"
    else:
        raise AssertionError("an answer without the signal that is needed was accepted")


CHECKS = (
    returns_a_finite_scalar_sum_with_a_gradient,
    sum_and_count_add_up_over_split_batches,
    masked_positions_have_no_influence_even_as_nan,
    gradient_is_the_derivative_of_the_sum,
    does_not_edit_the_signals,
    a_missing_signal_raises_a_sentence,
)
