"""The synthesizer ``magpie``: the teacher writes the user's turn itself, then answers it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from distill_core.completions import GenerationRequest
from distill_core.errors import SignalError
from distill_core.interfaces import SynthesisContext
from distill_synthesis.generation.options import MagpieOptions
from distill_synthesis.generation.row import MadeRow
from distill_synthesis.generation.synthesis import Synthesis, Wish, unusable

_MARK = "\u2063the user's text\u2063"


class Magpie(Synthesis):
    """Magpie (2406.08464): an aligned model that is given its chat template up to where the user's text begins goes
    on with an instruction.

    A model without a template goes on with ``prefix``. The records of the source are not read.

    Args:
        options: of the synthesizer.
    """

    NAME = "magpie"
    STEPS = ("instructions asked", "instructions", "answers asked", "answers")

    def __init__(self, options: MagpieOptions) -> None:
        super().__init__(options)
        self.options = options

    def build(self, ctx: SynthesisContext) -> None:
        """
        Raises:
            SignalError: the teacher cannot write, answers prompts instead of going on with them, or has no chat
                template and no ``prefix`` is given.
        """
        super().build(ctx)
        if getattr(self.teacher, "continues_prompts", True) is False:
            raise SignalError(
                f"magpie needs a teacher that goes on with a prompt, but {self.identity} answers it: set endpoint: "
                "completions on the teacher"
            )
        if self.options.prefix is not None:
            self.prefix, after = self.options.prefix, ["\n"]
        else:
            self.prefix, end = user_turn(_tokenizer(self.teacher, self.identity), self.options.system)
            after = [end] if end else []
        self.stop = tuple(after if self.options.instruction_stop is None else self.options.instruction_stop)

    def rows(self, source: Iterable[Mapping[str, Any]]) -> Iterator[Sequence[MadeRow]]:
        start = 0
        while start < self.options.count and not self.full:
            end = min(start + self.window(), self.options.count)
            yield self.answered(self._instructions(range(start, end)), self.options.answer)
            start = end

    def _instructions(self, numbers: Iterable[int]) -> list[MadeRow]:
        wishes = []
        for number in numbers:
            name = f"{self.NAME}-{number}"
            row = self.begin(name, details={"prefix": self.prefix})
            wishes.append(Wish(row, GenerationRequest(f"{name}#instruction", prompt=self.prefix)))
        found = []
        parameters = self.parameters(stop=(*self.options.stop, *self.stop))
        for row, completion in self.ask("instructions asked", wishes, parameters, what="instruction"):
            row = replace(row, prompt=completion.text.strip())
            reason = unusable(completion)
            if reason:
                self.drop("instructions", row, reason)
            else:
                found.append(self.passed("instructions", row))
        return found


def _tokenizer(teacher: Any, identity: str) -> Any:
    tokenizer = getattr(teacher, "tokenizer", None)
    found = tokenizer() if callable(tokenizer) else None
    if not getattr(found, "chat_template", None):
        raise SignalError(
            f"magpie goes on with the teacher's chat template, but {identity} has none: give a `prefix` to go on with, "
            'such as "Instruction:", or a teacher that was trained to chat'
        )
    return found


def user_turn(tokenizer: Any, system: str | None) -> tuple[str, str]:
    """What a chat template writes before the user's text, and what right after it, without white space around.

    A BOS that the tokenizer puts before every text itself is left out.

    Raises:
        SignalError: the template does not show the user's text as it is.
    """
    turns = [] if system is None else [{"role": "system", "content": system}]
    text = tokenizer.apply_chat_template([*turns, {"role": "user", "content": _MARK}], tokenize=False)
    before, found, after = text.partition(_MARK)
    if not found:
        raise SignalError(
            "magpie: the chat template does not show the user's text as it is, so where it begins is not known: give "
            "a `prefix` to go on with"
        )
    bos = tokenizer.bos_token
    if bos and before.startswith(bos) and list(tokenizer("x")["input_ids"])[:1] == [tokenizer.bos_token_id]:
        before = before.removeprefix(bos)
    return before, after.strip()
