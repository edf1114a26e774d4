"""The fixtures of the training tests: a tiny student on disk, a small data set, one thread."""

from __future__ import annotations

from tests.train.conftest import data, one_thread, student_dir

__all__ = ["data", "one_thread", "student_dir"]
