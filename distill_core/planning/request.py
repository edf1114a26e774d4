"""What a plan is asked for."""

from __future__ import annotations

from dataclasses import dataclass, field

from distill_core.errors import DistillError
from distill_core.planning.memory import Dtype
from distill_core.planning.shape import ModelShape

_POSITIVE = (
    "tokens",
    "teacher_loss",
    "teacher_tokens",
    "epochs",
    "students",
    "batch",
    "sequence",
    "flops",
    "memory",
    "disk",
)


@dataclass(frozen=True)
class Request:
    """Everything a plan is made from.

    Args:
        student: sizes of the student.
        tokens: D_S, tokens the student is trained on, over all epochs.
        teacher: sizes of the teacher; None: its compute is not counted.
        teacher_loss: L_T, held-out cross-entropy of the teacher, nat per token.
        teacher_tokens: D_T, tokens the teacher was trained on; gives L_T where ``teacher_loss`` is None.
        train_teacher: count the teacher's own training on ``teacher_tokens``.
        epochs: passes over the same tokens.
        students: students that share the teacher and its answers.
        batch, sequence, accumulation: sequences of a micro-batch, their tokens, micro-batches of a step.
        dtype, precision: of the student's weights and arithmetic.
        checkpointing: gradient checkpointing.
        chunk_rows: rows per pass over the head.
        lora_rank: rank of adapters, None: all weights.
        live: whether the run keeps the teacher in memory.
        from_scratch: whether the student starts at random, as in the scaling law.
        captures: (method, k) of the stores.
        flops, utilisation: of the hardware.
        memory: of the device.
        disk: of the disk of the stores.
        assumptions: what was neither given nor read.
    """

    student: ModelShape
    tokens: float
    teacher: ModelShape | None = None
    teacher_loss: float | None = None
    teacher_tokens: float | None = None
    train_teacher: bool = False
    epochs: float = 1.0
    students: int = 1
    batch: int = 8
    sequence: int = 1024
    accumulation: int = 1
    dtype: Dtype = "float32"
    precision: Dtype = "float32"
    checkpointing: bool = False
    chunk_rows: int | None = None
    lora_rank: int | None = None
    live: bool = False
    from_scratch: bool = True
    captures: tuple[tuple[str, int], ...] = ()
    flops: float | None = None
    utilisation: float = 0.4
    memory: float | None = None
    disk: float = 500e6
    assumptions: tuple[str, ...] = field(default=())

    def __post_init__(self) -> None:
        problems = [
            f"--{name.replace('_', '-')} must be positive, got {value:g}"
            for name in _POSITIVE
            if (value := getattr(self, name)) is not None and not 0 < value < float("inf")
        ]
        if not 0 < self.utilisation <= 1:
            problems.append(f"--utilisation is a share of the hardware's FLOP/s in (0, 1], got {self.utilisation:g}")
        if self.train_teacher and self.teacher_tokens is None:
            problems.append("--train-teacher needs --teacher-tokens: the tokens the teacher is to be trained on")
        if self.teacher_loss is not None and self.teacher_loss > 20:
            problems.append(
                f"--teacher-loss is a cross-entropy in nat per token, got {self.teacher_loss:g}: give the logarithm "
                "of a perplexity"
            )
        if self.epochs < 1:
            problems.append(f"--epochs must be at least 1, got {self.epochs:g}")
        if problems:
            raise DistillError("the plan cannot be made\n" + "\n".join(f"  - {problem}" for problem in problems))
