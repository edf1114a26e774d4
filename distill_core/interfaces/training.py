"""What a training calls: objectives, rollouts, samplers, row weights, schedules."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn

from distill_core.types import (
    LossTerm,
    RowInfo,
    RowTarget,
    StudentView,
    SupportLogits,
    TeacherSignals,
    TokenBatch,
)


@dataclass(frozen=True)
class BuildContext:
    """Given to ``build(ctx)`` before the optimizer is made.

    Args:
        student: the student model (a ``PreTrainedModel``); its config gives widths and depths.
        teacher_config: the teacher's ``PretrainedConfig`` if it has one, else None.
        total_steps: optimizer steps of the run.
        seed: the run's seed.
        build: builds another component: ``ctx.build("schedule", {"use": "linear", "start": 0, "end": 1})``.
        tokenizer: the student's tokenizer, which made the data; None where a task reads no text.
        teacher: the live teacher, None where signals come from a store or there is none.
        directory: where this training writes; what is kept there survives an interruption.
        rank, world_size: this process among all.
        data: the training sequences (``distill_core.engine.data.TokenSequence``), None outside a training.
        rollout: the built rollout that writes the sequences of each step, None where they are the data's own.
    """

    student: nn.Module
    teacher_config: Any
    total_steps: int
    seed: int
    build: Callable[[str, Mapping[str, Any]], Any]
    tokenizer: Any = None
    teacher: Any = None
    directory: Path | None = None
    rank: int = 0
    world_size: int = 1
    data: Sequence[Any] | None = None
    rollout: Any = None


class StepContext(Protocol):
    """Given to ``on_step_end(ctx)`` after each optimizer step."""

    step: int
    total_steps: int


class RowObjective(Protocol):
    """Fused: called per chunk of rows inside the one pass over the head.

    Optional: ``temperatures(step, total_steps) -> tuple[float, ...]`` (default ``(1.0,)``), ``extras`` (tuple of
    ``SupportLogits`` extras it reads), ``view(target) -> RowTarget`` (default: the target itself), ``count(batch)``,
    ``build(ctx)``, ``on_step_end(ctx)``, ``parameters()``, ``state_dict()`` / ``load_state_dict()``, ``exported``;

    - ``prepare(batch, signals, rows) -> Mapping[str, Tensor]``: called once per micro-batch before the pass, with all
      its rows, for what needs more than a chunk of them (returns along a sequence, ranks). Its [N, ...] tensors,
      without gradient, come back cut to the chunk as ``rows.extra``.
    - ``student_support``: an int k. ``rows`` is then given the student's exact distribution on *its own* k most likely
      tokens, chosen without gradient, instead of the target's support.
    """

    def rows(self, support: SupportLogits, target: RowTarget | None, rows: RowInfo) -> Tensor:
        """[n] per-row values; ``target`` is None if the objective needs no teacher."""
        ...


class Objective(Protocol):
    """Free form: hidden states, attentions, generated sequences; runs beside the fused pass.

    Optional members as for :class:`RowObjective`; ``count(batch) -> float`` depends on the batch alone (default: its
    number of rows) and is the denominator of the returned sum. Further:

    - ``student_signals``: names of signals that it reads of the student and of no teacher (``attentions``).
    - ``example_fields(batch)``: of one that reads ``batch.fields``, fields as records hold them, one per sequence,
      after ``build(ctx)``: what the conformance kit gives it.
    """

    def __call__(self, student: StudentView, teacher: TeacherSignals, batch: TokenBatch) -> LossTerm: ...


class Rollout(Protocol):
    """Makes the sequences of an optimizer step: on-policy training, where the student or the teacher writes.

    Called before the denominators of the step are counted. What it knows of the tokens it sampled (behaviour
    log-probabilities) goes into ``per_token``, where a sequence comes from into ``per_sequence``. Random numbers depend
    on ``ctx.seed``, the step and the rank alone, so a resumed run writes what an uninterrupted one would have written.

    Optional: ``build(ctx)``, ``on_step_end(ctx)``, ``state_dict()`` / ``load_state_dict(state)``, and ``metrics()``,
    numbers by name of the last step, which go into its line of ``metrics.jsonl`` (``reported``).
    """

    def batches(self, step: int, batches: Sequence[TokenBatch]) -> Sequence[TokenBatch]:
        """As many micro-batches as the data gave for this step, on the CPU; those of the data may be among them."""
        ...


class Sampler(Protocol):
    """Says which training sequence stands at each position of the endless stream (``train.order``).

    Step s takes positions ``s * G .. (s + 1) * G``, G sequences over all processes and micro-batches. Every process
    asks for the whole step and takes its share, so a sampler knows nothing of how a step is split. Steps are asked in
    order, each when it begins; what is asked twice is answered alike. Random numbers depend on ``ctx.seed`` and the
    step alone, what is learned lies in the state: a resumed run sees what an uninterrupted one would have seen.

    Optional: ``build(ctx)`` (``ctx.data``: the sequences), ``on_step_end(ctx)``, ``state_dict()`` /
    ``load_state_dict(state)``.
    """

    def indices(self, step: int, positions: range) -> Sequence[int]:
        """As many indices into the training data as there are positions."""
        ...


class RowWeight(Protocol):
    """Says how much each row of a micro-batch counts in one objective (``row_weights`` of the objective).

    The denominator of the objective stays the number of rows. Optional: ``build(ctx)``, ``on_step_end(ctx)``.
    """

    def weights(self, batch: TokenBatch, signals: TeacherSignals, rows: RowInfo) -> Tensor:
        """[N] weights, at least 0."""
        ...


class Schedule(Protocol):
    """A number that changes over training."""

    def __call__(self, step: int, total_steps: int) -> float: ...
