"""The teachers of one training, from the run file: its own and those that objectives name; live, stored or mixed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from distill_core.engine.run_file.supply import captured_teachers

if TYPE_CHECKING:
    from pathlib import Path

    from distill_core.config import CaptureConfig, TrainConfig
    from distill_core.engine.context import RunContext


@dataclass(frozen=True)
class TrainingTeachers:
    """Who answers in a training.

    Args:
        own: for objectives that name no source; None where none needs a teacher.
        named: by source.
        own_held_out: for held-out batches; None: ``own``.
        named_held_out: the same by source; None: ``named``.
    """

    own: Any = None
    named: Mapping[str, Any] = field(default_factory=dict)
    own_held_out: Any = None
    named_held_out: Mapping[str, Any] | None = None


def teachers_of(context: RunContext, config: TrainConfig) -> TrainingTeachers:
    """Build them: live teachers are loaded, stores are opened."""
    found = _Finder(context, config)
    named = [objective.source for objective in config.objectives if objective.source is not None]
    if config.teacher == "live":
        return TrainingTeachers(found.live(), {name: context.teacher(name) for name in named})
    if config.teacher == "none":
        return TrainingTeachers()
    own = [config.store] if config.store in config.sources_read and config.store in found.captures else []
    stored = {name: found.stored(name) for name in dict.fromkeys([*own, *named])}
    if config.eval_steps is None:
        return TrainingTeachers(stored[config.store] if own else None, {name: stored[name] for name in named})
    # A store holds the training sequences only; held-out ones need the models themselves.
    captured = {name: found.captured(name) for name in stored}
    return TrainingTeachers(
        stored[config.store] if own else None,
        {name: stored[name] for name in named},
        captured[config.store] if own else None,
        {name: captured[name] for name in named},
    )


class _Finder:
    def __init__(self, context: RunContext, config: TrainConfig) -> None:
        self.context = context
        self.captures: dict[str, CaptureConfig] = {capture.name: capture for capture in context.config.captures}
        self.aggregator = None  # one for training and held-out batches: its weights may be learned
        if config.aggregate is not None:
            self.aggregator = context.registry.build("aggregator", config.aggregate)

    def live(self) -> Any:
        teachers = self.context.config.all_teachers
        if self.aggregator is not None:
            return self._mixed({name: self.context.teacher(name) for name in teachers})
        return self.context.teacher() if len(teachers) == 1 else None

    def stored(self, name: str) -> Any:
        from distill_core.engine.stored import StoredSignals

        directory: Path = self.context.path(f"capture:{name}")
        if not self.captures[name].joint:
            return StoredSignals(directory)
        return self._mixed({teacher: StoredSignals(directory / teacher) for teacher in self._teachers(name)})

    def captured(self, name: str) -> Any:
        """The live teacher, or the mixture of them, that a capture asked."""
        teachers = {teacher: self.context.teacher(teacher) for teacher in self._teachers(name)}
        return self._mixed(teachers) if self.captures[name].joint else next(iter(teachers.values()))

    def _teachers(self, capture: str) -> list[str]:
        return captured_teachers(self.captures[capture], self.context.config)

    def _mixed(self, members: Mapping[str, Any]) -> Any:
        from distill_core.engine.aggregation import AggregatedTeacher

        assert self.aggregator is not None  # validation asks for one
        return AggregatedTeacher(members, self.aggregator)
