"""The ``length`` filter: characters, words or tokens within bounds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from distill_core.errors import DataError
from distill_core.interfaces import FilterContext
from distill_synthesis.filters.options import LengthOptions
from distill_synthesis.filters.record_text import text_of


class Length:
    """Drops a record whose text is too short or too long.

    Characters are Unicode code points, words what stands between white space, tokens those of the student's tokenizer
    without special ones.

    >>> judge = Length(LengthOptions(unit="words", min=2, max=4))
    >>> [judge.verdict({"text": text}) for text in ("one", "one two", "1 2 3 4 5")]
    ['too short: 1 words, at least 2', None, 'too long: 5 words, at most 4']
    """

    def __init__(self, options: LengthOptions) -> None:
        self.options = options
        self.count: Callable[[str], int] | None = {"characters": len, "words": lambda text: len(text.split())}.get(
            options.unit
        )

    def build(self, ctx: FilterContext) -> None:
        """
        Raises:
            DataError: tokens are to be counted, but the run reads no text and has no tokenizer.
        """
        if self.options.unit != "tokens":
            return
        tokenizer = ctx.tokenizer()
        if tokenizer is None:
            raise DataError("length counts tokens, but this run has no tokenizer: set unit to characters or words")
        self.count = lambda text: len(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    def verdict(self, record: Mapping[str, Any]) -> str | None:
        if self.count is None:
            raise RuntimeError("length counts tokens: call build(ctx) first")
        found, low, high = self.count(text_of(record, self.options.part)), self.options.min, self.options.max
        if low is not None and found < low:
            return f"too short: {found} {self.options.unit}, at least {low}"
        if high is not None and found > high:
            return f"too long: {found} {self.options.unit}, at most {high}"
        return None
