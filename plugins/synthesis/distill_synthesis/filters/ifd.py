"""The ``ifd`` filter: records whose prompt helps with the answer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from distill_core.interfaces import FilterContext
from distill_synthesis.filters.causal_losses import summed_losses
from distill_synthesis.filters.loading import context_tokens, load
from distill_synthesis.filters.model_options import IfdOptions
from distill_synthesis.filters.record_text import text_of

Ids = list[int]


class Ifd:
    """Instruction-following difficulty (2308.12032): ``loss(answer | prompt) / loss(answer alone)``, within bounds.

    Both are mean losses on the same tokens, under a model of its own: the first token of the answer, which nothing
    stands before in the answer alone, counts in neither, as in the selector of this name. Prompt and answer are encoded
    by themselves; of ``messages``, all but the last turn, a line each, are the prompt.
    """

    def __init__(self, options: IfdOptions) -> None:
        self.options = options
        self.batch_records = options.batch_records
        self.model: Any = None

    def build(self, ctx: FilterContext) -> None:
        """Loads the model."""
        self.model, self.tokenizer = load(self.options, "AutoModelForCausalLM", asks="ifd")
        self.length = context_tokens(self.model, self.options.length_tokens)

    def verdict(self, record: Mapping[str, Any]) -> str | None:
        return self.verdicts([record])[0]

    def verdicts(self, records: Sequence[Mapping[str, Any]]) -> list[str | None]:
        if self.model is None:
            raise RuntimeError("ifd asks a model: call build(ctx) first")
        reasons: list[str | None] = [None] * len(records)
        able: dict[int, tuple[Ids, Ids]] = {}
        for index, record in enumerate(records):
            encoded = self.encoded(record)
            if isinstance(encoded, str):
                reasons[index] = encoded
            else:
                able[index] = encoded
        for index, score in zip(able, self.scores(list(able.values())), strict=True):
            if not score < self.options.drop_above:
                reasons[index] = f"the prompt does not help: score {score:.3f}, {self.options.drop_above:g} or more"
            elif score < self.options.min:
                reasons[index] = f"score too low: {score:.3f}, at least {self.options.min:g}"
        return reasons

    def encoded(self, record: Mapping[str, Any]) -> tuple[Ids, Ids] | str:
        """Ids of prompt and answer, cut to the length; or why they cannot be compared."""
        prompt, answer = text_of(record, "prompt"), text_of(record, "answer")
        if not prompt:
            return "no prompt: the record has no `prompt` before a `completion`, nor messages before an answer"
        before = list(self.tokenizer(prompt, verbose=False)["input_ids"])
        ids = list(self.tokenizer(answer, add_special_tokens=False, verbose=False)["input_ids"])
        if len(ids) < 2:
            return f"answer too short: {len(ids)} tokens, at least 2"
        room = self.length - len(before)
        if room < 2:
            return f"prompt too long: {len(before)} tokens, at most {self.length - 2} of {self.length}"
        return before, ids[:room]

    def scores(self, pairs: Sequence[tuple[Ids, Ids]]) -> list[float]:
        """One per prompt and answer; infinite where the answer alone costs nothing."""
        given = summed_losses(self.model, [(before + ids, len(before) + 1) for before, ids in pairs])
        alone = summed_losses(self.model, [(ids, 1) for _, ids in pairs])
        return [one / other if other > 0 else math.inf for one, other in zip(given, alone, strict=True)]
