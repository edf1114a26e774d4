"""What the synthesizers of this room have in common: asking within a budget, steps that add up, filters, provenance."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO, Any, ClassVar

from distill_core.completions import Completion, GenerationParameters, GenerationRequest
from distill_core.errors import DataError, SignalError
from distill_core.files import atomic_file
from distill_core.filtering import FilterChain, build_filter
from distill_core.funnel import Funnel, FunnelStep, funnel_sentence
from distill_core.interfaces import FilterContext, SynthesisContext
from distill_synthesis.asking.completion_cache import CompletionCache
from distill_synthesis.asking.ledger import Ledger
from distill_synthesis.asking.template import Template
from distill_synthesis.generation.noted_filter import NotedFilter
from distill_synthesis.generation.options import AnswerOptions, GenerationOptions
from distill_synthesis.generation.row import Check, MadeRow, Provenance, as_record

DROPPED_FILE = "dropped.jsonl"
"""Every row that was begun and not kept, with the step and the reason."""

FILTERS = "filters"
"""Where filters keep what they want to find again."""

BUDGET_SPENT = "the budget of tokens or money is spent"
BEYOND_ROWS = "beyond the budget of rows"


@dataclass(frozen=True)
class Wish:
    """Something to be written for a row.

    Args:
        row: as far as it is made.
        request: what is asked.
        template: what the request was made with; None: of no template.
    """

    row: MadeRow
    request: GenerationRequest
    template: Template | None = None


class Synthesis:
    """Base of a synthesizer that asks a teacher; a subclass writes :meth:`rows`.

    Args:
        options: of the synthesizer.
    """

    NAME: ClassVar[str]
    STEPS: ClassVar[tuple[str, ...]]
    """Steps of a row before the filters, in order; every row goes through them until one drops it."""

    _dropped: IO[bytes]

    def __init__(self, options: GenerationOptions) -> None:
        self.common = options
        self.templates = {name: options.template(name) for name in options.PROMPTS}
        self.funnel = Funnel()
        self.steps: dict[str, FunnelStep] = {name: self.funnel.step(name) for name in self.STEPS}
        self.kept = 0
        self.context: SynthesisContext | None = None

    def build(self, ctx: SynthesisContext) -> None:
        """
        Raises:
            SignalError: the teacher cannot write, or does not say what a request costs although a budget needs it.
        """
        self.teacher = ctx.teacher(self.common.teacher)
        if not callable(getattr(self.teacher, "generate", None)):
            raise SignalError(
                f"{self.NAME} asks a teacher for text, but {type(self.teacher).__name__} does not write (it has no "
                "generate()): name one that gives the signal `text`: hf, openai, vllm or answers"
            )
        if self.common.budget.cost is not None and not callable(getattr(self.teacher, "most_spent", None)):
            raise SignalError(
                f"budget.cost is {self.common.budget.cost:g}, but the teacher {self.teacher.identity()} does not say "
                "what a request costs (it has no most_spent()): use budget.tokens, or the teacher openai with its "
                "prices"
            )
        self.context, self.seed, self.identity = ctx, ctx.seed, str(self.teacher.identity())

    def rows(self, source: Iterable[Mapping[str, Any]]) -> Iterator[Sequence[MadeRow]]:
        """Finished rows, some at a time, in an order that depends on nothing but the options, source and answers."""
        raise NotImplementedError

    def synthesize(self, source: Iterable[Mapping[str, Any]], directory: Path) -> Iterator[dict[str, Any]]:
        """The records that pass every filter, until the budget of rows is reached.

        Raises:
            DataError: nothing was kept; the message says what became of everything.
        """
        if self.context is None:
            raise RuntimeError(f"{self.NAME} asks a teacher: call build(ctx) first")
        directory.mkdir(parents=True, exist_ok=True)
        budget = self.common.budget
        self.ledger = Ledger(directory, tokens=budget.tokens, cost=budget.cost)
        self.cache = CompletionCache(directory, self.teacher)
        self.ledger.settle_kept(self.cache.held)
        watch = getattr(self.teacher, "watch_losses", None)
        try:
            if callable(watch):
                watch(self.ledger.lost)
            with atomic_file(directory / DROPPED_FILE) as self._dropped:
                yield from self._kept(source, directory)
        finally:
            if callable(watch):
                watch(None)
        if not self.kept:
            raise DataError(
                f"{self.NAME}: no row was kept: {funnel_sentence(self.funnel.plain(examples=False))}; what was written "
                f"is in {self.cache.path}: change the prompts, the filters or the budget"
            )

    def summary(self) -> dict[str, Any]:
        """The funnel, and what was spent over all attempts."""
        spent = self.ledger.spent
        told = {
            "teacher": self.identity,
            "templates": {name: template.digest for name, template in self.templates.items()},
            "asked": self.cache.asked,
            "spent": {"tokens": spent.tokens, "cost": spent.cost},
            "budget": self.common.budget.model_dump(exclude_none=True),
        }
        return {"funnel": self.funnel.plain(examples=False), self.NAME: told}

    # What subclasses use ---------------------------------------------------------------------------------------

    @property
    def full(self) -> bool:
        """Whether the budget of rows is reached."""
        return self.common.budget.rows is not None and self.kept >= self.common.budget.rows

    def window(self) -> int:
        """How many rows to begin at a time: no more than are still wanted."""
        left = self.common.window if self.common.budget.rows is None else self.common.budget.rows - self.kept
        return max(1, min(self.common.window, left))

    def begin(self, document: str, *, parents: Sequence[str] = (), **fields: Any) -> MadeRow:
        """A row of which nothing is written yet; ``details`` goes into its provenance, the rest into the row."""
        details = fields.pop("details", {})
        origin = Provenance(self.NAME, self.identity, {}, {}, self.seed, (), tuple(parents), details=details)
        return MadeRow(document, origin, **fields)

    def request(self, name: str, text: str, *, ask_as: str | None = None) -> GenerationRequest:
        """What is asked with a prompt, as the options say."""
        if (ask_as or self.common.ask_as) == "text":
            return GenerationRequest(name, prompt=text)
        system = [] if self.common.system is None else [{"role": "system", "content": self.common.system}]
        return GenerationRequest(name, messages=(*system, {"role": "user", "content": text}))

    def parameters(self, options: AnswerOptions | None = None, **changes: Any) -> GenerationParameters:
        """How something is made, or answered."""
        given = self.common if options is None else options
        values = {
            "max_new_tokens": given.max_new_tokens,
            "temperature": given.temperature,
            "top_p": given.top_p,
            "stop": tuple(given.stop),
            **changes,
        }
        return GenerationParameters(**values, seed=self.seed)

    def ask(
        self, step: str, wishes: Sequence[Wish], parameters: GenerationParameters, *, what: str
    ) -> list[tuple[MadeRow, Completion]]:
        """The answers, with the rows that say so; rows beyond the budget are dropped at ``step``."""
        completions = self.cache.affordable([wish.request for wish in wishes], parameters, self.ledger)
        used = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(parameters).items() if k != "seed"}
        used.pop("top_logprobs")
        answered = []
        for wish, completion in zip(wishes, completions, strict=True):
            if completion is None:
                self.drop(step, wish.row, BUDGET_SPENT)
                continue
            self.steps[step].keep()
            old = wish.row.provenance
            prompts = {} if wish.template is None else {wish.template.name: wish.template.digest}
            origin = replace(
                old,
                prompts={**old.prompts, **prompts},
                parameters={**old.parameters, what: used},
                requests=(*old.requests, wish.request.id),
            )
            answered.append((replace(wish.row, provenance=origin), completion))
        return answered

    def passed(self, step: str, row: MadeRow, check: Check | None = None) -> MadeRow:
        """Count a row that passes a step."""
        self.steps[step].keep()
        if check is None:
            return row
        return replace(row, provenance=replace(row.provenance, checks=(*row.provenance.checks, check)))

    def drop(self, step: str, row: MadeRow, reason: str, check: Check | None = None) -> None:
        """Count a row that a step drops, and write it down."""
        if check is not None:
            row = replace(row, provenance=replace(row.provenance, checks=(*row.provenance.checks, check)))
        record = {name: value for name, value in as_record(row).items() if value is not None}
        self.steps[step].drop(reason, record)
        self._note(step, record, reason)

    def answered(self, rows: Sequence[MadeRow], options: AnswerOptions, *, ask_as: str | None = None) -> list[MadeRow]:
        """Rows whose ``prompt`` the teacher has answered: the steps ``answers asked`` and ``answers``."""
        template = self.templates["answer"]
        wishes = [
            Wish(
                row,
                self.request(f"{row.document}#answer", template.render(instruction=row.prompt), ask_as=ask_as),
                template,
            )
            for row in rows
        ]
        finished = []
        for row, completion in self.ask("answers asked", wishes, self.parameters(options), what="answer"):
            reason = unusable(completion)
            if reason:
                self.drop("answers", replace(row, completion=completion.text), reason)
            else:
                finished.append(
                    self.passed("answers", replace(row, completion=completion.text.strip(), system=self.common.system))
                )
        return finished

    # ------------------------------------------------------------------------------------------------------------

    def _kept(self, source: Iterable[Mapping[str, Any]], directory: Path) -> Iterator[dict[str, Any]]:
        assert self.context is not None
        given = FilterContext(**vars(self.context), directory=directory / FILTERS)
        names = [ref.use for ref in self.common.filters]
        judges = [
            (name, NotedFilter(build_filter({"use": name, **ref.options}, given), name, names[:index], self._note))
            for index, (name, ref) in enumerate(zip(names, self.common.filters, strict=True))
        ]
        chain = FilterChain(judges, self.funnel)
        last = None if self.common.budget.rows is None else self.funnel.step("rows")
        for rows in self.rows(source):
            for record in chain.keep(as_record(row, self.common.form) for row in rows):
                made = {**record, "provenance": {**record["provenance"], "filters": names}}
                if self.full:
                    assert last is not None
                    last.drop(BEYOND_ROWS, made)
                    self._note(last.name, made, BEYOND_ROWS)
                    continue
                if last is not None:
                    last.keep()
                self.kept += 1
                yield made
            if self.full:
                return

    def _note(self, step: str, record: Mapping[str, Any], reason: str) -> None:
        line = json.dumps({"step": step, "reason": reason, **record}, ensure_ascii=False)
        self._dropped.write(line.encode("utf-8", "replace") + b"\n")


def unusable(completion: Completion) -> str:
    """Why a text cannot be used; empty if it can.

    >>> unusable(Completion("q", " ")), unusable(Completion("q", "yes", "length")), unusable(Completion("q", "yes"))
    ('empty', 'cut: longer than max_new_tokens', '')
    """
    if not completion.text.strip():
        return "empty"
    return "cut: longer than max_new_tokens" if completion.finish_reason == "length" else ""
