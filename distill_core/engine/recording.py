"""Where a training leaves its traces."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distill_core.engine.metrics_file import MetricsFile
from distill_core.engine.progress import Task


@dataclass(frozen=True)
class Recording:
    """Where a training leaves its traces.

    Args:
        metrics: one line per step (main process).
        progress: the bar to advance.
        checkpoint_root: directory of the checkpoints.
        keep_checkpoints: how many stay.
        identity: what the run is; written into every checkpoint.
        track_every_steps: how often trackers are fed; None: there are none.
        on_step: called with (step, metrics) after every step in the main process.
    """

    metrics: MetricsFile
    progress: Task
    checkpoint_root: Path
    keep_checkpoints: int
    identity: Mapping[str, Any]
    track_every_steps: int | None = None
    on_step: Callable[[int, dict[str, Any]], None] | None = None
