"""Puts a plan together."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from distill_core.planning import compute, memory, scaling_law, storage
from distill_core.planning.figures import Advice, Figure, Formula, Plan
from distill_core.planning.losses import Losses, expected_losses, loss_figures, uniform_guess
from distill_core.planning.memory import BYTES, Step, memory_figures, step_memory
from distill_core.planning.recommendation import (
    distil_or_not,
    enough_tokens,
    fits_in_memory,
    loss_warnings,
    store_or_live,
    what_to_store,
)
from distill_core.planning.request import Request
from distill_core.planning.scaling_law import BUSBRIDGE
from distill_core.planning.shape import ModelShape

FORMULAS: dict[str, Formula] = {
    **scaling_law.FORMULAS,
    **compute.FORMULAS,
    **memory.FORMULAS,
    **storage.FORMULAS,
}
COMPARABLE = (
    "losses are nat per token of English C4 with a vocabulary of 32,168; another corpus or tokenizer shifts them all: "
    "read differences, not levels"
)


def make_plan(request: Request) -> Plan:
    """The plan of a request.

    >>> from distill_core.planning.shape import shape_of_size
    >>> student = shape_of_size(0.24e9, label="student", vocabulary=32_768)
    >>> plan = make_plan(Request(student=student, tokens=4e9, teacher_loss=2.2))
    >>> round(plan.figure("student_loss").value, 2)
    2.58
    """
    losses = expected_losses(request)
    stored = request.captures[0] if request.captures else ("threshold", 12)
    budget = compute.Budget(
        tokens=request.tokens,
        epochs=request.epochs,
        sequence=request.sequence,
        checkpointing=request.checkpointing,
        flops_per_s=request.flops,
        utilisation=request.utilisation,
        disk_bytes_per_s=request.disk,
    )
    costs = compute.student_figures(request.student, budget)
    if request.teacher is not None:
        costs += compute.teacher_figures(
            request.teacher,
            budget,
            stored_bytes=storage.bytes_per_position(*stored),
            teacher_tokens=request.teacher_tokens if request.train_teacher else None,
        )
    step = _step(request)
    positions = request.tokens / request.epochs
    sections: dict[str, tuple[Figure, ...]] = {
        "loss": tuple(loss_figures(request, losses)),
        "compute": tuple(costs),
        "memory": tuple(memory_figures(request.student, step, live_teacher=request.teacher if request.live else None)),
        "storage": tuple(storage.storage_figures(list(request.captures), positions, request.student.vocabulary)),
    }
    used = {figure.formula for figures in sections.values() for figure in figures}
    return Plan(
        inputs=_inputs(request),
        assumptions=(*request.assumptions, *request.student.notes, *(request.teacher.notes if request.teacher else ())),
        **sections,
        warnings=(*_warnings(request, losses, sections["loss"]),),
        recommendations=tuple(_advice(request, losses, step, costs)),
        missing=tuple(_missing(request, losses)),
        formulas={key: formula for key, formula in FORMULAS.items() if key in used},
    )


def _step(request: Request) -> Step:
    return Step(
        batch=request.batch,
        sequence=request.sequence,
        dtype=request.dtype,
        precision=request.precision,
        checkpointing=request.checkpointing,
        accumulation=request.accumulation,
        chunk_rows=request.chunk_rows,
        lora_rank=request.lora_rank,
    )


def _warnings(request: Request, losses: Losses | None, figures: tuple[Figure, ...]) -> list[str]:
    found = [] if losses is None else loss_warnings(request, losses)
    leaving = list(dict.fromkeys(flag for figure in figures for flag in figure.outside))
    if leaving:
        found.append(f"extrapolation, treat the losses as an order of magnitude: {'; '.join(leaving)}")
    return [*found, COMPARABLE]


def _advice(request: Request, losses: Losses | None, step: Step, costs: list[Figure]) -> list[Advice]:
    found = [] if losses is None else [distil_or_not(request, losses)]
    if request.teacher is not None:
        break_even = next((figure.value for figure in costs if figure.key == "break_even"), None)
        found.append(store_or_live(request, break_even))
    found.append(what_to_store(request.tokens / request.epochs))
    teacher = request.teacher.parameters * BYTES[request.precision] if request.live and request.teacher else 0.0
    own, checkpointed = (step_memory(request.student, s) for s in (step, replace(step, checkpointing=True)))
    return [*found, *fits_in_memory(request, own, checkpointed, teacher), *enough_tokens(request)]


def _missing(request: Request, losses: Losses | None) -> list[str]:
    found = []
    if BUSBRIDGE.loss(request.student.body, request.tokens) >= uniform_guess(request):
        found.append(
            f"losses: for {request.student.body:.3g} parameters and {request.tokens:.3g} tokens the laws predict more "
            f"than the {uniform_guess(request):.1f} nat of a uniform guess; they say nothing about sizes this small"
        )
    elif losses is None and (request.teacher_loss or request.teacher_tokens):
        found.append("the student's expected loss: the laws predict more than a uniform guess here")
    elif losses is None:
        found.append("the student's expected loss: give --teacher-loss, or the teacher's size and --teacher-tokens")
    if request.teacher is None:
        found.append("the teacher's compute: give --teacher-parameters or --teacher")
    if request.flops is None:
        found.append("times and the break-even of a store: give --flops (and --utilisation)")
    if request.memory is None:
        found.append("whether the step fits: give --memory")
    return found


def _inputs(request: Request) -> dict[str, Any]:
    """What the plan was made from, as plain JSON."""
    left_out = ("student", "teacher", "assumptions", "captures")
    found = {name: value for name, value in vars(request).items() if name not in left_out}
    found["captures"] = [{"method": method, "k": k} for method, k in request.captures]
    found["student"] = _shape(request.student)
    found["teacher"] = None if request.teacher is None else _shape(request.teacher)
    return found


def _shape(shape: ModelShape) -> dict[str, Any]:
    names = ("body", "hidden", "layers", "attention", "key_value", "feed_forward", "vocabulary", "tied")
    return {"parameters": shape.parameters, **{name: getattr(shape, name) for name in names}}
