"""What does not fit a run's task: teachers over other things, settings that speak of written text. No torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from distill_core.config import RunConfig
from distill_core.engine.run_file.loading import Location
from distill_core.engine.run_file.schema import Problem


def task_problems(config: RunConfig, components: Mapping[Location, Any]) -> Iterator[Problem]:
    """Teachers must answer over what students predict; some settings speak of text that is written."""
    wanted = "tokens" if config.task is None else "classes"
    for at in [("teacher",), *(("teachers", name) for name in config.teachers or {})]:
        teacher = components.get(at)
        if teacher is None:
            continue
        over = teacher.entry.provides(teacher.options).over
        if wanted not in over:
            remedy = (
                "set `task`, or use a language model such as hf"
                if config.task is None
                else f"with `task` use one such as hf-classifier (task: {config.task.use})"
            )
            yield Problem(
                at, f"{teacher.entry.id} answers over {', '.join(over)}, the student predicts {wanted}: {remedy}"
            )
    if config.task is None:
        return
    for name, training in config.trainings().items():
        place = "train" if name == "student" else f"compare.{name}"
        if training.vocabulary != "error":
            yield Problem(
                ("train", "vocabulary"),
                f"is {training.vocabulary}, but classes cannot be bridged: teacher and student need the same labels "
                "(`task.labels`); leave it out",
            )
        if training.rollout is not None:
            yield Problem(("train", "rollout"), f"{place} writes text, but a task predicts classes: leave it out")
    if config.student.peft is not None:
        yield Problem(
            ("student", "peft"),
            "adapters leave a new classifier untrained and out of their checkpoints: train all weights with a `task`",
        )
    if config.report.prompts:
        yield Problem(("report", "prompts"), "are continued by language models; a task predicts classes: leave it out")
