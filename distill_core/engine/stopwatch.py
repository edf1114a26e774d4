"""Seconds that named pieces of work took, added up where a name comes again."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from distill_core.interfaces import EvaluatedRows, Measurement, RowAccumulator


class Stopwatch:
    """Wall-clock seconds by name.

    >>> watch = Stopwatch()
    >>> with watch.running("fidelity"):
    ...     pass
    >>> list(watch.seconds)
    ['fidelity']
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def running(self, name: str) -> Iterator[None]:
        """Add what the body takes to ``name``, also where it raises."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


class Timed:
    """A row accumulator whose own work is timed; the models' work in the shared pass is nobody's."""

    def __init__(self, name: str, accumulator: RowAccumulator, watch: Stopwatch) -> None:
        self.name, self.accumulator, self.watch = name, accumulator, watch

    def update(self, rows: EvaluatedRows) -> None:
        with self.watch.running(self.name):
            self.accumulator.update(rows)

    def measurements(self) -> list[Measurement]:
        with self.watch.running(self.name):
            return self.accumulator.measurements()
