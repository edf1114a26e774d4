"""The same value at every step."""

from __future__ import annotations

from distill_objectives.options import ConstantOptions


class Constant:
    """A constant.

    >>> Constant(ConstantOptions(value=2.0))(step=7, total_steps=10)
    2.0
    """

    def __init__(self, options: ConstantOptions) -> None:
        self.options = options

    def __call__(self, step: int, total_steps: int) -> float:
        return self.options.value
