"""The losses a plan expects: of the student, of the same student without a teacher, and of the best teacher for it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from distill_core.planning.compute import forward_flops, training_flops
from distill_core.planning.figures import Figure
from distill_core.planning.request import Request
from distill_core.planning.scaling_law import (
    BUSBRIDGE,
    CHINCHILLA_PARAMETERS,
    CHINCHILLA_REFIT,
    CHINCHILLA_TOKENS,
    DISTILLATION,
    MODEL_PARAMETERS,
    RELATIVE_ERROR,
    STUDENT_PARAMETERS,
    STUDENT_TOKENS,
    TEACHER_LOSS,
    outside,
)

REPETITIONS = 4
"""Passes over the same text that cost next to nothing (Muennighoff et al. 2023, quoted in 2502.08606, appendix I)."""


@dataclass(frozen=True)
class Losses:
    """Expected cross-entropies, nat per token.

    Args:
        teacher: L_T.
        student: L_S.
        alone: the student trained without a teacher on the same tokens.
        alone_same_compute: the same on as many tokens as the teacher's FLOPs buy besides; None: teacher's size unknown.
        best_teacher: the L_T that would give the best student.
        best_student: L_S with that teacher.
    """

    teacher: float
    student: float
    alone: float
    alone_same_compute: float | None
    best_teacher: float
    best_student: float

    @property
    def within_error(self) -> float:
        """Differences below this are below the law's own prediction error, nat."""
        return RELATIVE_ERROR * self.student


def expected_losses(request: Request) -> Losses | None:
    """All of them; None if the teacher's loss is not to be had, or a law predicts more than :func:`uniform_guess`."""
    size, tokens = request.student.body, request.tokens
    teacher = request.teacher_loss
    if teacher is None and request.teacher is not None and request.teacher_tokens is not None:
        teacher = BUSBRIDGE.loss(request.teacher.body, request.teacher_tokens)
    if teacher is None:
        return None
    best = DISTILLATION.best_teacher_loss(size, tokens)
    same = None if request.teacher is None else BUSBRIDGE.loss(size, tokens + tokens_of_teacher_compute(request))
    found = Losses(
        teacher=teacher,
        student=DISTILLATION.loss(size, tokens, teacher),
        alone=BUSBRIDGE.loss(size, tokens),
        alone_same_compute=same,
        best_teacher=best,
        best_student=DISTILLATION.loss(size, tokens, best),
    )
    return found if max(found.student, found.alone) < uniform_guess(request) else None


def tokens_of_teacher_compute(request: Request) -> float:
    """Tokens of supervised training of the student that cost as much as the teacher, per student."""
    assert request.teacher is not None
    cost = forward_flops(request.teacher, request.sequence) * request.tokens
    if not request.live:
        cost /= request.epochs * request.students
    if request.train_teacher and request.teacher_tokens is not None:
        cost += training_flops(request.teacher, request.sequence) * request.teacher_tokens / request.students
    return cost / training_flops(request.student, request.sequence, checkpointing=request.checkpointing)


def loss_figures(request: Request, losses: Losses | None) -> list[Figure]:
    """The figures, each flagged where it leaves its law's domain; those above :func:`uniform_guess` are left out."""
    size = outside("student parameters", request.student.body, STUDENT_PARAMETERS)
    data = outside("student tokens", request.tokens, STUDENT_TOKENS)
    if request.epochs > REPETITIONS:
        data += (f"{request.epochs:g} passes over the same tokens, where the law's were nearly all new",)
    start = () if request.from_scratch else ("the student does not start at random, as in the law",)
    found = []
    if losses is not None:
        given = request.teacher_loss is not None
        formula = "distillation-law" if given else "supervised-law"
        flags = outside("teacher loss", losses.teacher, TEACHER_LOSS)
        if not given and request.teacher is not None and request.teacher_tokens is not None:
            flags = outside("teacher parameters", request.teacher.body, MODEL_PARAMETERS)
            flags += outside("teacher tokens", request.teacher_tokens, STUDENT_TOKENS)
        label = "teacher, as given" if given else "teacher, by its size and tokens"
        found.append(_figure("teacher_loss", label, losses.teacher, formula, flags))
        teacher = outside("teacher loss", losses.teacher, TEACHER_LOSS)
        found.append(
            _figure("student_loss", "student", losses.student, "distillation-law", size + data + teacher + start)
        )
        best = outside("best teacher loss", losses.best_teacher, TEACHER_LOSS)
        label = "teacher that would be best for it"
        found.append(_figure("best_teacher_loss", label, losses.best_teacher, "distillation-law", size + data + best))
        label = "student of that teacher"
        found.append(_figure("best_student_loss", label, losses.best_student, "distillation-law", size + data + best))
    alone = BUSBRIDGE.loss(request.student.body, request.tokens)
    label = "the same student without a teacher"
    found.append(_figure("supervised_loss", label, alone, "supervised-law", size + data + start))
    if losses is not None and losses.alone_same_compute is not None:
        more = outside("tokens", request.tokens + tokens_of_teacher_compute(request), STUDENT_TOKENS)
        label = "without a teacher, its compute spent on more text"
        flags = size + more + start
        found.append(_figure("supervised_same_compute", label, losses.alone_same_compute, "supervised-law", flags))
    whole = request.student.parameters
    refit = outside("student parameters", whole, CHINCHILLA_PARAMETERS)
    refit += outside("tokens", request.tokens, CHINCHILLA_TOKENS)
    label = "without a teacher, another law on another corpus"
    value = CHINCHILLA_REFIT.loss(whole, request.tokens)
    found.append(_figure("chinchilla_loss", label, value, "chinchilla-refit", refit + start))
    return [figure for figure in found if figure.value < uniform_guess(request)]


def uniform_guess(request: Request) -> float:
    """The loss of a model that knows nothing, ``ln V`` nat: a law that predicts more than that is far from its data."""
    return math.log(request.student.vocabulary)


def _figure(key: str, label: str, value: float, formula: str, flags: tuple[str, ...]) -> Figure:
    return Figure(key=key, label=label, value=value, unit="nat", formula=formula, outside=flags)
