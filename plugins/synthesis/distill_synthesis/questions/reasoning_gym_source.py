"""The ``reasoning-gym`` source: procedural tasks with exact scorers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from importlib.metadata import version
from typing import Any

from distill_core.errors import DataError
from distill_synthesis.questions.options import ReasoningGymOptions
from distill_synthesis.questions.reasoning_gym_tasks import SIZE, open_task
from distill_synthesis.questions.split import is_held_out

FRUITLESS_DRAWS = 1000


class ReasoningGym:
    """Yields ``count`` different questions of one task, with the place each can be made again from.

    The field ``reasoning_gym`` (task, config, seed, index) is what the checker of the same name scores an answer by.
    The library's metadata of an entry is not copied: it need not be JSON, and the checker makes the entry again.
    """

    def __init__(self, options: ReasoningGymOptions) -> None:
        self.options = options

    def records(self) -> Iterator[dict[str, Any]]:
        """Raises ``DataError`` where the task has fewer questions than ``count``, or gives no answer to one."""
        options = self.options
        task = open_task(options.task, options.config, seed=options.seed)
        seen, fruitless, index = set[str](), 0, -1
        while len(seen) < options.count:
            index += 1
            if index == SIZE:
                raise DataError(
                    f"reasoning-gym: count is {options.count}, but {SIZE} entries of {options.task} gave {len(seen)} "
                    f"different questions of the split {options.split}: ask for fewer"
                )
            entry = task[index]
            question, answer = str(entry["question"]).strip(), entry["answer"]
            if question in seen or is_held_out(question) != (options.split == "held-out"):
                fruitless += 1
                if fruitless > FRUITLESS_DRAWS:
                    raise DataError(
                        f"reasoning-gym: count is {options.count}, but the task {options.task} gave only {len(seen)} "
                        f"different questions of the split {options.split}: ask for fewer, or widen its config"
                    )
                continue
            if answer is None:
                raise DataError(f"reasoning-gym: the task {options.task} has no single answer (entry {index})")
            fruitless = 0
            seen.add(question)
            yield {
                "question": question,
                "answer": str(answer),
                "prompt": f"{question}\n",
                "completion": str(answer),
                "document": f"{options.task}-{options.seed}-{index}",
                "domain": options.task,
                "reasoning_gym": {
                    "task": options.task, "config": options.config, "seed": options.seed, "index": index
                },
                "provenance": {"source": "reasoning-gym", "synthetic": True, "version": version("reasoning-gym")},
            }  # fmt: skip

    def fingerprint(self) -> str:
        state = hashlib.sha256()
        for record in self.records():
            state.update(json.dumps(record, sort_keys=True).encode() + b"\n")
        return state.hexdigest()
