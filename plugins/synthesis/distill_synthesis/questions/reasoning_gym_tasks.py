"""Tasks of the library reasoning-gym, opened with clear errors. The library is imported at first use."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

from distill_core.errors import DataError

SIZE = 2**17
"""Bound of the index, always the same: some tasks draw a list of this length when they are opened."""

MISSING = "use: needs the library reasoning-gym: pip install 'distill-synthesis[reasoning-gym]'"


def library_problems() -> list[str]:
    return [] if find_spec("reasoning_gym") is not None else [MISSING]


def task_problems(task: str, config: Mapping[str, Any]) -> list[str]:
    """What is wrong with a task and its options; empty: nothing."""
    if find_spec("reasoning_gym") is None:
        return [MISSING]
    try:
        open_task(task, config, seed=0)
    except DataError as error:
        return [str(error)]
    return []


def open_task(task: str, config: Mapping[str, Any], *, seed: int) -> Any:
    """The task's data set, indexable and with ``score_answer``.

    Raises:
        DataError: no library, an unknown task, or options that the task refuses.
    """
    try:
        import reasoning_gym
        from reasoning_gym.factory import DATASETS
    except ImportError:
        raise DataError(MISSING) from None
    if task not in DATASETS:
        import difflib

        near = difflib.get_close_matches(task, list(DATASETS), 3)
        hint = f"; did you mean {', '.join(near)}?" if near else f"; it has {len(DATASETS)} tasks"
        raise DataError(f"task: reasoning-gym has no task {task!r}{hint}")
    try:
        return reasoning_gym.create_dataset(task, size=SIZE, seed=seed, **config)
    except (AssertionError, TypeError, ValueError) as error:
        raise DataError(f"config: the task {task} refuses {dict(config)}: {error}") from error
