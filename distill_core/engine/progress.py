"""Progress of long work: rich bars on a terminal, plain lines elsewhere.

>>> import io
>>> progress = Progress(stream=io.StringIO())
>>> with progress.task("capture", 200, unit="tok") as task:
...     task.advance(200)
>>> print(progress.stream.getvalue().splitlines()[-1].split(" in ")[0])
capture: 200 tok
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol, TextIO

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress

FIRST_LINE_S = 5.0
"""Plain lines: the first comes after so many seconds, each later one after twice as long, up to `LAST_LINE_S`."""

LAST_LINE_S = 60.0


class Task(Protocol):
    """One piece of work under way."""

    def advance(self, n: float, note: str = "") -> None:
        """``n`` more units are done; ``note`` is shown beside the rate."""
        ...


def duration(seconds: float) -> str:
    """A duration for people.

    >>> duration(0.25), duration(59.7), duration(62), duration(3725)
    ('0.2 s', '59.7 s', '1 min 02 s', '1 h 02 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min"


def quantity(value: float) -> str:
    """A count or a rate with at most four figures.

    >>> quantity(7), quantity(0.53), quantity(1234), quantity(2_500_000)
    ('7', '0.53', '1,234', '2.50M')
    """
    if value >= 1e6:
        return f"{value / 1e6:.2f}M"
    if value >= 100 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.3g}"


class PlainTask:
    """Prints a line now and then: what is done, the rate, what is left."""

    def __init__(self, label: str, total: float | None, unit: str, stream: TextIO) -> None:
        self.label, self.total, self.unit, self.stream = label, total, unit, stream
        self.done = 0.0
        self.started_s = time.monotonic()
        self.pause_s = FIRST_LINE_S
        self.next_s = self.started_s + self.pause_s

    def advance(self, n: float, note: str = "") -> None:
        self.done += n
        now_s = time.monotonic()
        if now_s >= self.next_s:
            self.pause_s = min(2 * self.pause_s, LAST_LINE_S)
            self.next_s = now_s + self.pause_s
            self._print(self._state(now_s - self.started_s) + (f"  {note}" if note else ""))

    def finish(self) -> None:
        seconds = time.monotonic() - self.started_s
        if not self.total and not self.done:  # nothing is counted
            self._print(f"{self.label}: {duration(seconds)}")
            return
        rate = f" ({quantity(self.done / seconds)} {self.unit}/s)" if seconds > 0 else ""
        self._print(f"{self.label}: {quantity(self.done)} {self.unit} in {duration(seconds)}{rate}")

    def _state(self, seconds: float) -> str:
        rate = self.done / seconds
        if not self.total:
            return f"{self.label}: {quantity(self.done)} {self.unit}, {quantity(rate)} {self.unit}/s"
        left = f", {duration((self.total - self.done) / rate)} left" if rate > 0 else ""
        share = f"{100 * self.done / self.total:.0f} %"
        return (
            f"{self.label}: {share}, {quantity(self.done)}/{quantity(self.total)} {self.unit}, "
            f"{quantity(rate)} {self.unit}/s{left}"
        )

    def _print(self, line: str) -> None:
        print(line, file=self.stream, flush=True)


class RichTask:
    """A bar in a rich display."""

    def __init__(self, display: RichProgress, label: str, total: float | None, unit: str) -> None:
        self.display, self.unit = display, unit
        self.done = 0.0
        self.started_s = time.monotonic()
        self.id = display.add_task(label, total=total, rate="", note="")

    def advance(self, n: float, note: str = "") -> None:
        self.done += n
        seconds = time.monotonic() - self.started_s
        rate = f"{quantity(self.done / seconds)} {self.unit}/s" if seconds > 0 else ""
        self.display.update(self.id, advance=n, rate=rate, note=note)


class Progress:
    """Shows progress and messages; passed to every stage.

    Args:
        stream: where to write; default: standard error, so that standard output stays parseable.
        terminal: rich bars (True), plain lines (False) or decided by ``stream.isatty()`` (None).
        quiet: show nothing but what :meth:`say` is given with ``always=True``.
    """

    def __init__(self, *, stream: TextIO | None = None, terminal: bool | None = None, quiet: bool = False) -> None:
        self.stream = sys.stderr if stream is None else stream
        self.terminal = self.stream.isatty() if terminal is None else terminal
        self.quiet = quiet
        self._display: RichProgress | None = None

    def say(self, text: str, *, always: bool = False) -> None:
        """Print a line, above the bars if any."""
        if self.quiet and not always:
            return
        if self._display is not None:
            self._display.console.print(text, markup=False, highlight=False)
        else:
            print(text, file=self.stream, flush=True)

    @contextmanager
    def task(self, label: str, total: float | None, unit: str = "tok") -> Iterator[Task]:
        """Work of ``total`` units (None: unknown); advance it inside the ``with``. Tasks may be nested."""
        if self.quiet:
            yield _Silent()
        elif not self.terminal:
            plain = PlainTask(label, total, unit, self.stream)
            yield plain
            plain.finish()
        elif self._display is not None:
            display = self._display
            nested = RichTask(display, label, total, unit)
            try:
                yield nested
            finally:
                display.remove_task(nested.id)
        else:
            with _display(self.stream) as self._display:
                try:
                    yield RichTask(self._display, label, total, unit)
                finally:
                    self._display = None


class _Silent:
    def advance(self, n: float, note: str = "") -> None:
        """Shows nothing."""


def _display(stream: TextIO) -> RichProgress:
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Display

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TextColumn("{task.fields[rate]}", markup=False),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
    )
    return Display(*columns, console=Console(file=stream, force_terminal=True))
