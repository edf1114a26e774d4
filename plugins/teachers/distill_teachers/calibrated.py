"""The ``calibrated`` teacher: another one whose temperature was fitted on held-out text.

Legend: N rows, K support size, M temperatures.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

from torch import Tensor

from distill_core.errors import SignalError
from distill_core.interfaces import Teacher, VocabularyInfo
from distill_core.plugin import Needs
from distill_core.types import RowTarget, SparseSpec, TeacherSignals, TokenBatch
from distill_teachers.ensemble_options import CalibratedOptions
from distill_teachers.held_out import held_out_batches, label_loss
from distill_teachers.nested import build_nested

SMALLEST, LARGEST = 0.1, 10.0
"""Temperatures the fit may find."""

GRID = 9
"""Temperatures per pass over the held-out text."""


class CalibratedTeacher:
    """Temperature scaling (Guo, Pleiss, Sun & Weinberger 2017, arXiv 1706.04599, section 4.2) of any teacher that gives
    exact targets: its logits are divided by the T that minimises its negative log-likelihood on held-out text.

    The loss is convex in 1 / T, so the minimum is found by narrowing a grid: a few passes over the text, each at nine
    temperatures at once, every loss exact. T does not change which token is likeliest. It is part of ``identity()``, so
    a capture says with which T it was made, and another T is another teacher.

    Args:
        options: ``teacher``; ``temperature`` or ``source`` with ``sequences`` and ``sequence_length_tokens``.

    Raises:
        SignalError: (at first use) the best T lies outside 0.1 to 10, or the teacher gives no probability of a token.

    >>> options = CalibratedOptions(teacher={"use": "hf", "model": "org/name"}, temperature=1.3)
    >>> CalibratedTeacher(options).temperature
    1.3
    """

    def __init__(self, options: CalibratedOptions) -> None:
        self.options = options
        self.teacher: Teacher = build_nested("teacher", options.teacher)

    @classmethod
    def of(cls, teacher: Teacher, temperature: float) -> CalibratedTeacher:
        """A teacher that exists, at a known temperature (notebooks, tests)."""
        made = cls.__new__(cls)
        made.options = CalibratedOptions(teacher={"use": "given"}, temperature=temperature)  # type: ignore[arg-type]
        made.teacher = teacher
        return made

    @cached_property
    def temperature(self) -> float:
        """The T that logits are divided by, rounded to four digits after the point."""
        if self.options.temperature is not None:
            return self.options.temperature
        assert self.options.source is not None
        batches = list(
            held_out_batches(
                build_nested("source", self.options.source),
                self.tokenizer(),
                sequences=self.options.sequences,
                length_tokens=self.options.sequence_length_tokens,
            )
        )
        return round(fit_temperature(lambda temperatures: label_loss(self.teacher, batches, temperatures)), 4)

    def vocabulary(self) -> VocabularyInfo:
        return self.teacher.vocabulary()

    def tokenizer(self) -> Any:
        """The wrapped teacher's tokenizer.

        Raises:
            SignalError: it has none.
        """
        tokenizer = getattr(self.teacher, "tokenizer", None)
        if tokenizer is None:
            raise SignalError(
                f"the teacher {self.teacher.identity()} has no tokenizer to read held-out text with: give `temperature`"
            )
        return tokenizer()

    def identity(self) -> str:
        return f"{self.teacher.identity()} calibrated at T={self.temperature:.4f}"

    @property
    def model_dtype(self) -> Any:
        """dtype the wrapped teacher computes in."""
        return getattr(self.teacher, "model_dtype", "float32")

    def signals(self, batch: TokenBatch, needs: Needs, sparse: SparseSpec | None = None) -> TeacherSignals:
        """The wrapped teacher's targets at T times the temperatures that are asked for.

        Raises:
            SignalError: a signal other than targets, or what the wrapped teacher says.
        """
        unknown = sorted(needs.signals - {"targets"})
        if unknown:
            raise SignalError(
                f"a calibrated teacher gives targets alone, but {unknown} were asked for: they do not depend on the "
                "temperature, so name the teacher itself as the objective's source"
            )
        if not needs.signals:
            return TeacherSignals()
        wanted = needs.temperatures or ()
        spec = sparse
        if spec is None:
            spec = SparseSpec("topk", min(64, self.vocabulary().size), wanted or (1.0,))
        elif spec.method == "topk":
            spec = replace(spec, temperatures=tuple(dict.fromkeys((*spec.temperatures, *wanted))))
        own = tuple(self.temperature * temperature for temperature in spec.temperatures)
        inner = replace(spec, temperatures=own)
        asked = replace(needs, temperatures=tuple(self.temperature * temperature for temperature in wanted))
        signals = self.teacher.signals(batch, asked, inner)
        assert signals.target is not None
        return TeacherSignals(
            target=self._at(signals.target, spec.temperatures),
            extra={
                name: tuple(self._at(draw, spec.temperatures) for draw in value) if name == "draws" else value
                for name, value in signals.extra.items()
            },
        )

    def _at(self, target: RowTarget, temperatures: tuple[float, ...]) -> RowTarget:
        """Logits over T: at temperature t they say what the wrapped ones say at T t; tails and weights stay."""
        logits_NK = None if target.logits_NK is None else target.logits_NK / self.temperature
        return replace(target, temperatures=temperatures, logits_NK=logits_NK)


def fit_temperature(loss: Callable[[Sequence[float]], Tensor]) -> float:
    """The T in [0.1, 10] of the smallest loss, to about 1e-4 of it.

    Args:
        loss: gives the loss at several temperatures; it has one minimum (a likelihood is convex in 1 / T).

    Raises:
        SignalError: the loss still falls at an end of the range.

    >>> import torch
    >>> round(fit_temperature(lambda found: torch.tensor([(1 / t - 0.5) ** 2 for t in found])), 3)
    2.0
    """
    low, high = math.log(SMALLEST), math.log(LARGEST)
    logs: list[float] = []
    values: list[float] = []
    best = 0
    while high - low > 1e-2:
        logs = [low + (high - low) * index / (GRID - 1) for index in range(GRID)]
        values = loss([math.exp(one) for one in logs]).double().tolist()
        best = min(range(GRID), key=values.__getitem__)
        if best in (0, GRID - 1) and (logs[best] <= math.log(SMALLEST) or logs[best] >= math.log(LARGEST)):
            raise SignalError(
                f"the held-out loss still falls at temperature {math.exp(logs[best]):.3g}, the end of the range "
                f"[{SMALLEST}, {LARGEST}]: the text is not what the teacher was trained on, or its logits are on "
                "another scale"
            )
        low, high = logs[max(0, best - 1)], logs[min(GRID - 1, best + 1)]
    if 0 < best < GRID - 1:
        # the vertex of the parabola through the three lowest points
        left, middle, right = values[best - 1 : best + 2]
        bend = left - 2 * middle + right
        if bend > 0:
            return math.exp(logs[best] + 0.5 * (left - right) / bend * (logs[1] - logs[0]))
    return math.exp(logs[best])
