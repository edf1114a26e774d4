"""The ``perplexity`` filter: texts that a language model finds neither too strange nor too easy."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from distill_core.interfaces import FilterContext
from distill_synthesis.filters.causal_losses import summed_losses
from distill_synthesis.filters.loading import context_tokens, load
from distill_synthesis.filters.model_options import PerplexityOptions
from distill_synthesis.filters.record_text import text_of


class Perplexity:
    """Drops a record whose perplexity ``exp(mean of -log p(token | before))`` lies outside bounds (CCNet, 1911.00359).

    Under a model of its own, in fp32, with the model's special tokens. A text longer than ``length_tokens`` is cut into
    windows that follow each other; the mean is over all tokens that are predicted. A text of fewer than two tokens has
    no perplexity and is dropped for that.
    """

    def __init__(self, options: PerplexityOptions) -> None:
        self.options = options
        self.batch_records = options.batch_records
        self.model: Any = None

    def build(self, ctx: FilterContext) -> None:
        """Loads the model."""
        self.model, self.tokenizer = load(self.options, "AutoModelForCausalLM", asks="perplexity")
        self.length = context_tokens(self.model, self.options.length_tokens)

    def verdict(self, record: Mapping[str, Any]) -> str | None:
        return self.verdicts([record])[0]

    def verdicts(self, records: Sequence[Mapping[str, Any]]) -> list[str | None]:
        found = self.perplexities([text_of(record, self.options.part) for record in records])
        return [self._reason(perplexity) for perplexity in found]

    def perplexities(self, texts: Sequence[str]) -> list[float | None]:
        """One per text; None where nothing is predicted."""
        if self.model is None:
            raise RuntimeError("perplexity asks a model: call build(ctx) first")
        windows: list[tuple[list[int], int]] = []
        owners: list[int] = []
        for index, text in enumerate(texts):
            ids = list(self.tokenizer(text, verbose=False)["input_ids"])
            cut = [ids[i : i + self.length] for i in range(0, len(ids), self.length)]
            windows += [(window, 1) for window in cut if len(window) > 1]
            owners += [index for window in cut if len(window) > 1]
        sums, counts = [0.0] * len(texts), [0] * len(texts)
        for owner, (window, _), loss in zip(owners, windows, summed_losses(self.model, windows), strict=True):
            sums[owner] += loss
            counts[owner] += len(window) - 1
        return [_exp(total / count) if count else None for total, count in zip(sums, counts, strict=True)]

    def _reason(self, perplexity: float | None) -> str | None:
        if perplexity is None:
            return "no perplexity: fewer than two tokens"
        if self.options.max is not None and not perplexity <= self.options.max:
            return f"perplexity too high: {perplexity:.4g}, at most {self.options.max:g}"
        if self.options.min is not None and perplexity < self.options.min:
            return f"perplexity too low: {perplexity:.4g}, at least {self.options.min:g}"
        return None


def _exp(loss: float) -> float:
    return math.exp(loss) if loss < 700 else math.inf
