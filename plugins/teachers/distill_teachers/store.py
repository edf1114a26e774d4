"""The ``store`` teacher: signals captured before, in this run or another, on this machine or another."""

from __future__ import annotations

from pathlib import Path

from distill_core.engine.stored import StoredSignals
from distill_teachers.options import StoreOptions


class StoreTeacher(StoredSignals):
    """Answers from a finished store directory.

    Args:
        options: ``path`` of the store.

    Raises:
        StoreError: the path holds no finished, undamaged store.
    """

    def __init__(self, options: StoreOptions) -> None:
        super().__init__(Path(options.path).expanduser())
