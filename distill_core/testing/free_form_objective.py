"""Conformance of free-form objectives, on a padded batch of three sequences with masked labels.

Legend: B sequences, T positions, S student width, D teacher width, H heads.

Of what an objective declares in ``properties``: ``zero_at_equality`` and ``nonnegative`` (False unless declared) are
checked, ``exact_gradient`` and ``additive`` (True unless declared) are not asked of those that declare otherwise. An
objective that compares the rows of a micro-batch with each other is not additive.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from distill_core.taps import SIGNALS as TAPS
from distill_core.testing.material import build_context, finite_difference_error, random_batch
from distill_core.testing.subject import NotApplicable, Subject
from distill_core.types import LossTerm, StudentView, TeacherSignals, TokenBatch

STUDENT_WIDTH, TEACHER_WIDTH, N_LAYERS = 4, 6, 2

Scene = tuple[Any, StudentView, TeacherSignals, TokenBatch]


def scene(subject: Subject, *, student_width: int = STUDENT_WIDTH) -> Scene:
    """The objective after ``build(ctx)``, and signals of all kinds that it may ask for, in float32."""
    objective = subject.build()
    if hasattr(objective, "rows"):
        raise NotApplicable("a row objective")
    unknown = subject.needs().signals - {"hidden_states", "attentions"} - TAPS
    if unknown:
        raise NotApplicable(f"needs signals the kit cannot make: {sorted(unknown)}")
    if hasattr(objective, "build"):
        objective.build(build_context(subject.registry, student_width=student_width, teacher_width=TEACHER_WIDTH))
    batch = random_batch(0)
    generator = torch.Generator().manual_seed(1)
    if hasattr(objective, "example_fields"):
        batch = replace(batch, fields=objective.example_fields(batch))
    n_sequences, length = batch.input_ids_BT.shape

    def states(width: int, n: int) -> tuple[Tensor, ...]:
        return tuple(torch.randn(n_sequences, length, width, generator=generator) for _ in range(n))

    def attention() -> tuple[Tensor, ...]:
        shape = (n_sequences, 2, length, length)
        return tuple(torch.randn(shape, generator=generator).softmax(-1) for _ in range(N_LAYERS))

    def projections(width: int) -> dict[str, tuple[Tensor, ...]]:
        return {signal: states(width, N_LAYERS) for signal in sorted(TAPS)}

    student = StudentView(states(student_width, N_LAYERS + 1), attention(), projections(student_width))
    teacher = TeacherSignals(None, states(TEACHER_WIDTH, N_LAYERS + 1), attention(), projections(TEACHER_WIDTH))
    return objective, student, teacher, batch


def with_gradient(student: StudentView) -> tuple[StudentView, list[Tensor]]:
    """A copy whose tensors collect gradients, and those tensors."""
    leaves: list[Tensor] = []

    def leaf(value: Tensor) -> Tensor:
        leaves.append(value.detach().clone().requires_grad_(True))
        return leaves[-1]

    return _student_with(student, leaf), leaves


def _student_with(student: StudentView, change: Callable[[Tensor], Tensor]) -> StudentView:
    return StudentView(
        hidden_states=tuple(change(value) for value in student.hidden_states),
        attentions=None if student.attentions is None else tuple(change(value) for value in student.attentions),
        extra={signal: tuple(change(value) for value in layers) for signal, layers in student.extra.items()},
    )


def _teacher_with(teacher: TeacherSignals, change: Callable[[Tensor], Tensor]) -> TeacherSignals:
    return TeacherSignals(
        hidden_states=tuple(change(value) for value in teacher.hidden_states or ()),
        attentions=tuple(change(value) for value in teacher.attentions or ()),
        extra={signal: tuple(change(value) for value in layers) for signal, layers in teacher.extra.items()},
    )


def gradients(objective: Any, student: StudentView, teacher: TeacherSignals, batch: TokenBatch) -> list[Tensor]:
    """Gradients of the total in the student's signals (zeros where unused)."""
    view, leaves = with_gradient(student)
    total = objective(view, teacher, batch).total
    assert total.requires_grad, "the total carries no gradient to the student's signals"
    found = torch.autograd.grad(total, leaves, allow_unused=True)
    return [torch.zeros_like(leaf) if grad is None else grad for leaf, grad in zip(leaves, found, strict=True)]


def _declares(objective: Any, name: str, default: bool) -> bool:
    return bool(getattr(objective, "properties", {}).get(name, default))


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
    if not _declares(objective, "additive", True):
        raise NotApplicable("declares additive=False: it compares the rows of a micro-batch with each other")
    whole = objective(student, teacher, batch).total
    parts, counts = torch.zeros(()), 0.0
    count = getattr(objective, "count", lambda batch: float(len(batch.rows())))
    for start, stop in ((0, 1), (1, 3)):
        cut = slice(start, stop)
        part = batch.select_sequences(start, stop)
        own = _student_with(student, lambda value, cut=cut: value[cut])  # type: ignore[misc]
        theirs = _teacher_with(teacher, lambda value, cut=cut: value[cut])  # type: ignore[misc]
        parts = parts + objective(own, theirs, part).total
        counts += float(count(part))
    torch.testing.assert_close(parts, whole.to(parts.dtype), rtol=1e-5, atol=1e-6)
    assert abs(counts - float(count(batch))) <= 1e-6 * max(1.0, counts), "count(batch) does not add up over splits"
    assert counts > 0, "count(batch) is 0 for a batch with rows"


def masked_positions_have_no_influence_even_as_nan(subject: Subject) -> None:
    """Hidden states at positions that predict nothing are NaN: value and gradient stay what they were."""
    objective, student, teacher, batch = scene(subject)
    if "hidden_states" not in subject.needs().signals:
        raise NotApplicable("reads no hidden states")
    rows = batch.rows()
    idle_BT = torch.ones_like(batch.input_ids_BT, dtype=torch.bool)
    idle_BT[rows.sequence_N, rows.position_N] = False

    def dirty(values: tuple[Tensor, ...] | None) -> tuple[Tensor, ...]:
        return tuple(value.masked_fill(idle_BT[:, :, None], math.nan) for value in values or ())

    student_nan = replace(student, hidden_states=dirty(student.hidden_states))
    teacher_nan = replace(teacher, hidden_states=dirty(teacher.hidden_states))
    _same(objective, (student, teacher, batch), (student_nan, teacher_nan, batch))


def padding_has_no_influence_even_as_nan(subject: Subject) -> None:
    """Every signal at padding is NaN, as from and as to of attentions: value and gradient stay what they were."""
    objective, student, teacher, batch = scene(subject)
    padding_BT = batch.attention_mask_BT == 0

    def dirty(value: Tensor) -> Tensor:
        if value.dim() == 3:
            return value.masked_fill(padding_BT[:, :, None], math.nan)
        return value.masked_fill((padding_BT[:, :, None] | padding_BT[:, None, :])[:, None], math.nan)

    _same(objective, (student, teacher, batch), (_student_with(student, dirty), _teacher_with(teacher, dirty), batch))


def _same(
    objective: Any,
    one: tuple[StudentView, TeacherSignals, TokenBatch],
    other: tuple[StudentView, TeacherSignals, TokenBatch],
) -> None:
    """Value and gradients of both are equal, bit by bit."""
    torch.testing.assert_close(objective(*other).total, objective(*one).total, rtol=0, atol=0)
    for found, wanted in zip(gradients(objective, *other), gradients(objective, *one), strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=0)


def is_zero_at_equality(subject: Subject) -> None:
    """Student and teacher of one width with the same signals: float32 rounding of a few units, per counted thing."""
    objective, student, _, batch = scene(subject, student_width=TEACHER_WIDTH)
    if not _declares(objective, "zero_at_equality", False):
        raise NotApplicable("does not declare zero_at_equality")
    same = TeacherSignals(None, student.hidden_states, student.attentions, student.extra)
    total = float(objective(student, same, batch).total.detach())
    assert abs(total) <= 1e-5, f"the total is {total:.3g} where student and teacher are equal"


def is_never_negative(subject: Subject) -> None:
    objective, student, teacher, batch = scene(subject)
    if not _declares(objective, "nonnegative", False):
        raise NotApplicable("does not declare nonnegative")
    total = float(objective(student, teacher, batch).total.detach())
    assert total >= 0, f"the total is {total:.3g}"


def gradient_is_the_derivative_of_the_sum(subject: Subject) -> None:
    """Central differences with step 1e-2 in float32 (rounding 1e-7 / 1e-2, curvature 1e-4): 2 %."""
    objective, student, teacher, batch = scene(subject)
    if not _declares(objective, "exact_gradient", True):
        raise NotApplicable("does not declare exact_gradient")
    _, leaves = with_gradient(student)
    found = gradients(objective, student, teacher, batch)
    # attentions are left out: a step of 1e-2 leaves the simplex
    used = [index for index, g in enumerate(found) if leaves[index].dim() == 3 and bool(g.ne(0).any())]
    if not used:
        raise NotApplicable("reads neither hidden states nor projections")

    def total(changed_BTS: Tensor) -> Tensor:
        place = iter(range(len(leaves)))
        view = _student_with(student, lambda value: changed_BTS if next(place) == used[0] else value)
        value: Tensor = objective(view, teacher, batch).total
        return value

    error = finite_difference_error(total, leaves[used[0]], step=1e-2, directions=4)
    assert error <= 0.02, f"the gradient differs from the derivative of the value by {error:.3g} of it"


def does_not_edit_the_signals(subject: Subject) -> None:
    objective, student, teacher, batch = scene(subject)
    tensors = [batch.input_ids_BT, batch.labels_BT, batch.attention_mask_BT]
    for view in (student, teacher):
        tensors += [*(view.hidden_states or ()), *(view.attentions or ())]
        tensors += [value for layers in view.extra.values() for value in layers]
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
    padding_has_no_influence_even_as_nan,
    is_zero_at_equality,
    is_never_negative,
    gradient_is_the_derivative_of_the_sum,
    does_not_edit_the_signals,
    a_missing_signal_raises_a_sentence,
)
