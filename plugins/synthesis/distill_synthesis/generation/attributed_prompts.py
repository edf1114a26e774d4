"""The synthesizer ``attributed-prompts``: texts of classes, each with attributes drawn at random."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from distill_synthesis.generation.draws import choice
from distill_synthesis.generation.options import AttributedPromptsOptions
from distill_synthesis.generation.row import MadeRow
from distill_synthesis.generation.synthesis import Synthesis, Wish, unusable


class AttributedPrompts(Synthesis):
    """AttrPrompt (2306.15895): a value of every attribute is drawn for each text, so that they differ.

    Classes are written in turn, as many texts of each. The records of the source are not read.

    Args:
        options: of the synthesizer.
    """

    NAME = "attributed-prompts"
    STEPS = ("texts asked", "texts")

    def __init__(self, options: AttributedPromptsOptions) -> None:
        super().__init__(options)
        self.options = options

    def rows(self, source: Iterable[Mapping[str, Any]]) -> Iterator[Sequence[MadeRow]]:
        start = 0
        while start < self.options.count and not self.full:
            end = min(start + self.window(), self.options.count)
            yield self._texts(range(start, end))
            start = end

    def _texts(self, numbers: Iterable[int]) -> list[MadeRow]:
        template, labels = self.templates["attributed"], self.options.labels
        wishes = []
        for number in numbers:
            name = f"{self.NAME}-{number}"
            label = labels[number % len(labels)] if labels else ""
            values = {**self.options.attributes, **self.options.label_attributes.get(label, {})}
            drawn = {one: choice(self.seed, f"{name}/{one}", values[one]) for one in values}
            text = template.render(task=self.options.task, label=label, attributes=drawn)
            kept = {"label": label} if labels else {}
            row = self.begin(name, details={"attributes": drawn}, kept=kept)
            wishes.append(Wish(row, self.request(name, text), template))
        found = []
        for row, completion in self.ask("texts asked", wishes, self.parameters(), what="text"):
            row = replace(row, text=completion.text.strip())
            reason = unusable(completion)
            if reason:
                self.drop("texts", row, reason)
            else:
                found.append(self.passed("texts", row))
        return found
