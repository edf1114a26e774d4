"""The synthesizer ``evol-instruct``: instructions made harder, or varied, generation by generation."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from distill_core.completions import GenerationParameters
from distill_synthesis.generation.draws import choice
from distill_synthesis.generation.instruction_text import instruction_of, named, plain_instruction
from distill_synthesis.generation.options import BREADTH, IN_DEPTH, EvolInstructOptions
from distill_synthesis.generation.row import Check, MadeRow
from distill_synthesis.generation.synthesis import Synthesis, Wish, unusable

_OF_THE_PROMPT = ("given prompt", "rewritten prompt", "created prompt", "new prompt", "#rewritten", "#created")
_STOP_WORDS = re.compile(r"a|an|and|are|as|at|be|by|for|from|in|is|it|of|on|or|so|that|the|this|to|was|were|with")


_OF_THE_OLD = ("question", "instruction", "answer", "rationale")
"""Fields of a record that are true of its own instruction alone."""


@dataclass(frozen=True)
class _Line:
    """An instruction of the source and what it has become."""

    first: str
    document: str
    now: str
    record: Mapping[str, Any]


class EvolInstruct(Synthesis):
    """Evol-Instruct (WizardLM, 2304.12244).

    In every generation each instruction is rewritten by an operation that is drawn for it: in depth (more constraints,
    deeper, more concrete, more steps of reasoning) or in breadth (a new one of the same domain), and answered. An
    evolution that failed is dropped, and the next generation starts from what was there before.

    Args:
        options: of the synthesizer.
    """

    NAME = "evol-instruct"
    STEPS = ("evolution asked", "evolution", "gain asked", "gain", "answers asked", "answers", "elimination")

    def __init__(self, options: EvolInstructOptions) -> None:
        super().__init__(options)
        self.options = options

    def rows(self, source: Iterable[Mapping[str, Any]]) -> Iterator[Sequence[MadeRow]]:
        """
        Raises:
            DataError: a record without an instruction.
        """
        records = named(source)
        while not self.full and (window := list(islice(records, self.window()))):
            lines = [
                _Line(
                    one.name,
                    one.document,
                    instruction_of(one.record, document=one.document, who=self.NAME),
                    {name: value for name, value in one.record.items() if name not in _OF_THE_OLD},
                )
                for one in window
            ]
            for generation in range(1, self.options.generations + 1):
                if self.full:
                    return
                evolved = self._generation(lines[: self.window()], generation)
                yield list(evolved.values())
                lines = [
                    replace(line, document=evolved[line.first].document, now=evolved[line.first].prompt or "")
                    if line.first in evolved
                    else line
                    for line in lines
                ]

    def _generation(self, lines: Sequence[_Line], generation: int) -> dict[str, MadeRow]:
        """Answered rows by the document that they began with."""
        wishes, old, first = [], {}, {}
        for line in lines:
            name = f"{line.first}/evol-{generation}"
            operation = choice(self.seed, name, self.options.operations)
            template = self.templates["in_breadth" if operation == BREADTH else "in_depth"]
            asked = {} if operation == BREADTH else {"operation": IN_DEPTH[operation]}
            text = template.render(instruction=line.now, **asked)
            details = {"operation": operation, "generation": generation}
            row = self.begin(name, parents=[line.document], details=details, kept=line.record)
            wishes.append(Wish(row, self.request(f"{name}#evolve", text), template))
            old[name], first[name] = line.now, line.first
        rows = []
        for row, completion in self.ask("evolution asked", wishes, self.parameters(), what="instruction"):
            row = replace(row, prompt=plain_instruction(completion.text))
            reason = unusable(completion) or _failed(row.prompt or "", old[row.document])
            if reason:
                self.drop("evolution", row, reason)
            else:
                rows.append(self.passed("evolution", row))
        rows = self._with_gain(rows, old)
        finished = [row for row in self.answered(rows, self.options.answer) if self._survives(row)]
        return {first[row.document]: row for row in finished}

    def _with_gain(self, rows: Sequence[MadeRow], old: Mapping[str, str]) -> list[MadeRow]:
        """Those that the teacher does not find equal to what they were made of."""
        if not self.options.equal_check:
            for row in rows:
                self.passed("gain asked", row)
                self.passed("gain", row)
            return list(rows)
        template = self.templates["equal"]
        wishes = [
            Wish(
                row,
                self.request(
                    f"{row.document}#equal", template.render(first=old[row.document], second=row.prompt or "")
                ),
                template,
            )
            for row in rows
        ]
        found = []
        parameters = GenerationParameters(max_new_tokens=8, seed=self.seed)
        for row, completion in self.ask("gain asked", wishes, parameters, what="judgement"):
            equal = is_equal(completion.text)
            if equal is False:
                found.append(self.passed("gain", row, Check("gain", True)))
            else:
                reason = "equal to its parent" if equal else f"unparsable judgement: {completion.text.strip()[:60]!r}"
                self.drop("gain", row, reason, Check("gain", False, reason))
        return found

    def _survives(self, row: MadeRow) -> bool:
        reason = no_answer(row.completion or "")
        check = Check("elimination", not reason, reason)
        if reason:
            self.drop("elimination", row, reason, check)
        else:
            self.passed("elimination", row)
        return not reason


def is_equal(text: str) -> bool | None:
    """What a judgement says: equal, not equal, or neither (None).

    >>> is_equal("Not equal."), is_equal(" Equal"), is_equal("Perhaps")
    (False, True, None)
    """
    found = re.match(r"\W*(not\s+)?equal\b", text, re.I)
    return None if found is None else found.group(1) is None


def _failed(new: str, old: str) -> str:
    """Why an evolved instruction is none."""
    if new.lower().split() == old.lower().split():
        return "unchanged"
    spoken = [words for words in _OF_THE_PROMPT if words in new.lower()]
    return f"speaks of the prompt: {spoken[0]}" if spoken else ""


def no_answer(text: str) -> str:
    """Why an answer shows that the instruction cannot be followed (section 3.2 of the paper); empty if it does not.

    >>> no_answer("Sorry, I cannot do that."), no_answer("the and -"), no_answer("Yes.")
    ('refused: sorry', 'no words', '')
    """
    if "sorry" in text.lower() and len(text.split()) < 80:
        return "refused: sorry"
    told = [word for word in re.findall(r"\w+", text.lower()) if not _STOP_WORDS.fullmatch(word)]
    return "" if told else "no words"
