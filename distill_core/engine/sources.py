"""Who answers a training: teachers by the name that objectives give as their ``source``.

The name ``""`` is the training's own teacher: the live one, the store of ``train.store``, or several mixed into one.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any

import torch

from distill_core.engine.teacher_answers import ask_teacher, choose_draw
from distill_core.types import TeacherSignals, TokenBatch

if TYPE_CHECKING:
    from distill_core.engine.objectives import ObjectiveSet
    from distill_core.interfaces import Teacher
    from distill_core.types import SparseSpec

OWN = ""
"""The source of objectives that name none."""


class Sources:
    """Teachers by source name; the own one may be missing where no objective needs a teacher."""

    def __init__(self, own: Teacher | None = None, named: Mapping[str, Teacher] | None = None) -> None:
        self.teachers: dict[str, Teacher] = {**({} if own is None else {OWN: own}), **(named or {})}

    @property
    def own(self) -> Teacher | None:
        return self.teachers.get(OWN)

    def config(self, source: str) -> Any:
        """The ``PretrainedConfig`` of the model behind a source, None where there is none."""
        return getattr(getattr(self.teachers.get(source), "model", None), "config", None)

    def understood(
        self, wanted: Collection[str], reads: Callable[[Teacher], tuple[Teacher, str]]
    ) -> tuple[Sources, str | None]:
        """The wanted sources as the student's vocabulary reads them, and what was done about it.

        Args:
            wanted: names of sources that some objective reads; the others are left out.
            reads: one teacher as the student reads it, and a sentence.
        """
        found: dict[str, Teacher] = {}
        sentences: list[str] = []
        for source, teacher in self.teachers.items():
            if source in wanted:
                found[source], sentence = reads(teacher)
                sentences.append(f"{source}: {sentence}" if source else sentence)
        return Sources(None, found), "; ".join(sentences) or None

    def choose_draw(self, epoch: int) -> None:
        """Stores that hold several samples per row answer with another one in each epoch."""
        for teacher in self.teachers.values():
            choose_draw(teacher, epoch)

    def ask(
        self,
        batch: TokenBatch,
        objectives: ObjectiveSet,
        *,
        sparse: Any,
        step: int,
        total_steps: int,
        device: torch.device,
    ) -> dict[str, TeacherSignals]:
        """Every source's signals for a batch, asked once each.

        Args:
            batch: on the CPU.
            objectives: say what they need of which source.
            sparse: ``sparse(temperatures, step) -> SparseSpec`` of a live teacher.
            step, total_steps: of the run.
            device: where the student is.

        Raises:
            TrainingError, SignalError: as :func:`distill_core.engine.teacher_answers.ask_teacher`.
        """
        answers = {}
        for source in objectives.sources:
            needs = objectives.needs(step, total_steps, source)
            spec: SparseSpec | None = None
            if "targets" in needs.signals:
                spec = sparse(needs.temperatures or (1.0,), step)
            answers[source] = ask_teacher(self.teachers.get(source), batch, needs, spec, device)
        return answers
