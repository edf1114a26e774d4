"""How a live teacher's answer is made sparse at each step: method, temperatures and the number of entries."""

from __future__ import annotations

from typing import Any

from distill_core.config import SparseConfig
from distill_core.errors import ConfigError
from distill_core.options import ScheduleRef
from distill_core.types import SparseSpec

DEFAULT_LIVE_K = 64
"""Support size of a live teacher's answer where ``train.sparse`` does not say."""


class Sparsity:
    """``train.sparse`` of one training: what is asked of a live teacher at a step.

    Args:
        config: the section, None: the ``DEFAULT_LIVE_K`` largest entries.
        registry: builds the schedule of k.
        total_steps: optimizer steps of the run.
        seed: of the run; each step draws afresh with a seed of its own.

    >>> Sparsity(SparseConfig(method="topk", k=8), registry=None, total_steps=10, seed=3)((1.0,), step=2)
    SparseSpec(method='topk', k=8, temperatures=(1.0,), seed=5, draws=1, ids_NK=None)
    """

    def __init__(self, config: SparseConfig | None, *, registry: Any, total_steps: int, seed: int) -> None:
        self.config = SparseConfig(method="topk", k=DEFAULT_LIVE_K) if config is None else config
        self.total_steps = total_steps
        self.seed = seed
        k = self.config.k
        self._schedule: Any = registry.build("schedule", k) if isinstance(k, ScheduleRef) else None

    def k(self, step: int) -> int:
        """Entries per row at a step."""
        k = self.config.k
        if not isinstance(k, ScheduleRef):
            return k
        return round(float(self._schedule(step, self.total_steps)))

    def check(self, vocabulary_size: int | None) -> None:
        """Refuse a schedule that leaves the range of a support, before the first step.

        Args:
            vocabulary_size: of the live teacher; None: not looked at.

        Raises:
            ConfigError: below 1 entry, or more entries than the vocabulary has tokens; says at which step.
        """
        if self._schedule is None:
            return
        largest = vocabulary_size if self.config.method != "multinomial" else None
        for step in range(self.total_steps):
            k = self.k(step)
            if k < 1:
                raise ConfigError(
                    [f"train.sparse.k: the schedule asks for {k} entries at step {step}; expected at least 1"]
                )
            if largest is not None and k > largest:
                raise ConfigError(
                    [
                        f"train.sparse.k: the schedule asks for {k} entries at step {step}, but the teacher's "
                        f"vocabulary has {largest} tokens; lower its values"
                    ]
                )

    def __call__(self, temperatures: tuple[float, ...], step: int) -> SparseSpec:
        """What to ask for at ``temperatures``."""
        return SparseSpec(self.config.method, self.k(step), temperatures, seed=self.seed + step)
