"""The checker ``reasoning-gym``: the task's own scorer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from distill_core.errors import DataError
from distill_core.interfaces import Verdict
from distill_synthesis.checkers.options import ReasoningGymAnswerOptions
from distill_synthesis.questions.reasoning_gym_tasks import open_task


class ReasoningGymAnswer:
    """Asks the scorer of the task that made the record; scores between 0 and 1 are given by some tasks."""

    def __init__(self, options: ReasoningGymAnswerOptions) -> None:
        self.options = options
        self._tasks: dict[tuple[Any, ...], Any] = {}

    def check(self, record: Mapping[str, Any], answer: str) -> Verdict:
        place = record.get("reasoning_gym")
        if not isinstance(place, Mapping) or not {"task", "config", "seed", "index"} <= set(place):
            raise DataError(
                f"checker reasoning-gym: document {record.get('document', '?')} does not come from the source "
                "reasoning-gym (no field `reasoning_gym` with task, config, seed and index): take another checker"
            )
        key = (place["task"], repr(sorted(place["config"].items())), place["seed"])
        if key not in self._tasks:
            self._tasks[key] = open_task(place["task"], place["config"], seed=int(place["seed"]))
        task = self._tasks[key]
        score = float(task.score_answer(answer=answer.strip(), entry=task[int(place["index"])]))
        return Verdict(min(1.0, max(0.0, score)), "" if score >= 1 else "the task's scorer gives less than 1")
