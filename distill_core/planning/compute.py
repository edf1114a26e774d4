"""Floating point operations of teacher and student, and the time they take.

Forward FLOPs of one token (Busbridge et al. 2025, arXiv 2502.08606, equations 59 and 72; the attention term counts a
causal kernel that skips what is masked): ``F = 2 N + 2 L T A + 2 V D``. A backward pass costs twice that (equation 70).
Legend: N parameters without embeddings, L layers, T tokens of a sequence, A width of the query heads, V vocabulary, D
hidden.
"""

from __future__ import annotations

from dataclasses import dataclass

from distill_core.planning.figures import Figure, Formula
from distill_core.planning.shape import ModelShape

FORMULAS = {
    "forward": Formula(
        text="F = 2 N + 2 L T A + 2 V D FLOP per token: body, causal attention, head",
        source="Busbridge et al. 2025, arXiv 2502.08606, equations 59 and 72; within 0.4 % of its exact "
        "counts (Table 13)",
        domain="dense decoder-only transformers; norms, softmax and rotations are left out",
    ),
    "student-training": Formula(
        text="3 F(student) D: a forward pass, and a backward pass of twice its cost; 4 F less the head with "
        "checkpointing",
        source="arXiv 2502.08606, equations 9 and 70; 6 N D where attention and head are small (Kaplan et al. 2020, "
        "arXiv 2001.08361)",
        domain="all weights trained; LoRA saves part of the backward pass, which is not counted",
    ),
    "teacher-forward": Formula(
        text="F(teacher) per labelled token: D / epochs with a store, D with a live teacher",
        source="arXiv 2502.08606, equation 9",
        domain="dense decoder-only transformers, no generation",
    ),
    "teacher-training": Formula(
        text="3 F(teacher) D_T", source="arXiv 2502.08606, equation 9", domain="one training run of the teacher"
    ),
    "break-even": Formula(
        text="(t + b / w) / (t - b / w) passes; t: seconds of the teacher per token, b: bytes of a stored position, w: "
        "bytes per second of the disk, paid when writing and at every reading",
        source="cost of t + b/w + P b/w with a store against P t without, solved for P",
        domain="P passes over the same tokens; reading that overlaps with training costs less than counted",
    ),
    "time": Formula(
        text="FLOP / (FLOP/s of the hardware x utilisation)", source="definition", domain="a constant utilisation"
    ),
}


def forward_flops(shape: ModelShape, sequence: int) -> float:
    """FLOPs of one token's forward pass.

    Args:
        shape: sizes of the model.
        sequence: T, tokens of a sequence.

    >>> body = ModelShape(body=1e6, hidden=64, layers=2, attention=64, key_value=64, feed_forward=128, vocabulary=100)
    >>> forward_flops(body, 128)
    2045568.0
    """
    return 2 * shape.body + 2 * shape.layers * sequence * shape.attention + 2 * shape.vocabulary * shape.hidden


def training_flops(shape: ModelShape, sequence: int, *, checkpointing: bool = False) -> float:
    """FLOPs of one token's forward and backward pass; checkpointing computes the layers once more."""
    forward = forward_flops(shape, sequence)
    again = forward - 2 * shape.vocabulary * shape.hidden if checkpointing else 0.0
    return 3 * forward + again


@dataclass(frozen=True)
class Budget:
    """What is computed, and on what.

    Args:
        tokens: D, tokens the student is trained on over all epochs.
        epochs: passes over the same tokens.
        sequence: T.
        checkpointing: gradient checkpointing of the student.
        flops_per_s: of the hardware; None: no times.
        utilisation: share of it that is reached, in (0, 1].
        disk_bytes_per_s: of the disk that holds a store.
    """

    tokens: float
    epochs: float = 1.0
    sequence: int = 1024
    checkpointing: bool = False
    flops_per_s: float | None = None
    utilisation: float = 0.4
    disk_bytes_per_s: float = 500e6

    def seconds(self, flops: float) -> float | None:
        return None if self.flops_per_s is None else flops / (self.flops_per_s * self.utilisation)


def student_figures(student: ModelShape, budget: Budget) -> list[Figure]:
    """What training the student costs."""
    per_token = training_flops(student, budget.sequence, checkpointing=budget.checkpointing)
    attention = 2 * student.layers * budget.sequence * student.attention / forward_flops(student, budget.sequence)
    found = [
        Figure(
            key="student_forward_per_token",
            label="student, one token forward",
            value=forward_flops(student, budget.sequence),
            unit="FLOP",
            formula="forward",
        ),
        Figure(
            key="student_attention_share",
            label="of it attention over the sequence",
            value=attention,
            unit="1",
            formula="forward",
        ),
        Figure(
            key="student_training",
            label="training the student",
            value=per_token * budget.tokens,
            unit="FLOP",
            formula="student-training",
        ),
    ]
    return found + _time("student_training_time", "training the student", per_token * budget.tokens, budget)


def teacher_figures(
    teacher: ModelShape, budget: Budget, *, stored_bytes: float, teacher_tokens: float | None = None
) -> list[Figure]:
    """What the teacher costs: labelling once, answering live, and its own training if ``teacher_tokens`` are given.

    Args:
        teacher: its sizes.
        budget: of the student's training.
        stored_bytes: of one position of the store.
        teacher_tokens: count the teacher's training on so many tokens.
    """
    per_token = forward_flops(teacher, budget.sequence)
    once, live = per_token * budget.tokens / budget.epochs, per_token * budget.tokens
    found = [_teacher("teacher_capture", "teacher, capture once", once)]
    found += _time("teacher_capture_time", "teacher, capture once", once, budget)
    found.append(_teacher("teacher_live", "teacher, live in every epoch", live))
    found += _time("teacher_live_time", "teacher, live in every epoch", live, budget)
    passes = break_even(per_token, stored_bytes, budget)
    if passes is not None:
        label = "a store pays from so many epochs or students on"
        found.append(Figure(key="break_even", label=label, value=passes, unit="passes", formula="break-even"))
    if teacher_tokens is not None:
        cost = training_flops(teacher, budget.sequence) * teacher_tokens
        label = "training the teacher"
        found.append(Figure(key="teacher_training", label=label, value=cost, unit="FLOP", formula="teacher-training"))
        found += _time("teacher_training_time", label, cost, budget)
    return found


def break_even(teacher_flops: float, stored_bytes: float, budget: Budget) -> float | None:
    """Passes over the same tokens from which a store is cheaper than a live teacher; None: never, or no hardware given.

    >>> round(break_even(1e9, 27.0, Budget(tokens=1e9, flops_per_s=1e9, utilisation=0.5, disk_bytes_per_s=27)), 6)
    3.0
    """
    teacher_s, disk_s = budget.seconds(teacher_flops), stored_bytes / budget.disk_bytes_per_s
    if teacher_s is None or teacher_s <= disk_s:
        return None
    return (teacher_s + disk_s) / (teacher_s - disk_s)


def _teacher(key: str, label: str, flops: float) -> Figure:
    return Figure(key=key, label=label, value=flops, unit="FLOP", formula="teacher-forward")


def _time(key: str, label: str, flops: float, budget: Budget) -> list[Figure]:
    seconds = budget.seconds(flops)
    return [] if seconds is None else [Figure(key=key, label=label, value=seconds, unit="s", formula="time")]
