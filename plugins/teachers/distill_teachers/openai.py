"""The ``openai`` teacher: any server that speaks OpenAI's protocol.

It writes (``generate``), and where the server lists log-probabilities over a prompt it gives exact targets
(``signals``): the k largest and the tail, at temperature 1. Which token a listed distribution belongs to is found out
by a probe (:mod:`distill_teachers.server.alignment`), and token texts become ids exactly or not at all.

Legend: B sequences, N rows, K support size.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any

from distill_core.completions import (
    Completion,
    GenerationParameters,
    GenerationRequest,
    GenerationTally,
    Spending,
    TokenLogprob,
    WrittenToken,
    unique_requests,
)
from distill_core.errors import DistillError, SignalError
from distill_core.interfaces import VocabularyInfo
from distill_core.store import vocabulary_info
from distill_core.types import Needs, SparseSpec, TeacherSignals, TokenBatch
from distill_teachers.listed_rows import listed_k, listed_target
from distill_teachers.openai_options import OpenAIOptions
from distill_teachers.server.asking import Answered, Asker
from distill_teachers.server.prompt_distributions import PromptDistributions
from distill_teachers.server.questions import text_question
from distill_teachers.server.reading import Position, Shown
from distill_teachers.server.token_texts import TokenTexts


class OpenAITeacher:
    """A model behind a server; nothing is sent before the first question.

    Args:
        options: address, model, limits.

    >>> OpenAITeacher(OpenAIOptions(model="m", base_url="http://127.0.0.1:1/v1", api_key_env=None)).identity()
    'server:http://127.0.0.1:1/v1#m'
    """

    def __init__(self, options: OpenAIOptions) -> None:
        self.options = options
        self.label = f"{options.model} at {options.address}"
        self.tally = GenerationTally()

    @cached_property
    def asker(self) -> Asker:
        """The connection, the kept answers and the account."""
        problems = self.options.problems()
        if problems:
            raise DistillError("teacher openai: " + "; ".join(problems))
        return Asker(self.options)

    def close(self) -> None:
        """Close connections and the account."""
        if "asker" in self.__dict__:
            self.asker.close()
            del self.__dict__["asker"]

    def identity(self) -> str:
        """Address and model: all that a server says about itself."""
        return f"server:{self.options.address}#{self.options.model}"

    @cached_property
    def _tokenizer(self) -> Any:
        if self.options.tokenizer is None:
            raise SignalError(
                f"the teacher {self.label} has no tokenizer: a server shows texts, and only its model's tokenizer says "
                "which ids they are. Set `tokenizer` to a directory or hub id"
            )
        from transformers import AutoTokenizer

        try:
            return AutoTokenizer.from_pretrained(self.options.tokenizer)
        except (OSError, ValueError, KeyError, ImportError) as error:
            first = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
            raise DistillError(f"the tokenizer {self.options.tokenizer} cannot be loaded: {first}") from error

    def tokenizer(self) -> Any:
        """The tokenizer named in the options.

        Raises:
            SignalError: none is named.
        """
        return self._tokenizer

    def vocabulary(self) -> VocabularyInfo:
        """Size and fingerprint of the tokenizer named in the options.

        Raises:
            SignalError: none is named.
        """
        info = vocabulary_info(self._tokenizer)
        return VocabularyInfo(size=info.size, fingerprint=info.fingerprint, name=self.label)

    @cached_property
    def texts(self) -> TokenTexts:
        """The vocabulary as the server shows it."""
        return TokenTexts(self._tokenizer)

    @cached_property
    def distributions(self) -> PromptDistributions:
        """What the server lists over prompts, read with its alignment."""
        return PromptDistributions(self.asker, self.texts, label=self.label)

    def signals(self, batch: TokenBatch, needs: Needs, sparse: SparseSpec | None = None) -> TeacherSignals:
        """Exact targets at ``batch.rows()``, from the log-probabilities that the server lists over each sequence.

        Args:
            batch: right-padded token sequences in the tokenizer's ids.
            needs: ``targets`` at temperature 1.
            sparse: method ``topk`` with k up to ``top_logprobs``; default: that many.

        Raises:
            SignalError: anything else, a server that cannot, one that reads the sequences as other tokens, or one whose
                lists cannot be understood with certainty; and :class:`~distill_teachers.server.failures.BudgetSpent`.
        """
        unknown = sorted(needs.signals - {"targets"})
        if unknown:
            raise SignalError(
                f"the teacher {self.label} cannot give {unknown}: a server gives targets, and text by generate(); for "
                "hidden states use a teacher of kind hf"
            )
        if "targets" not in needs.signals:
            return TeacherSignals()
        k = listed_k(needs, sparse, most=self.options.top_logprobs, label=self.label)
        vocabulary = self.vocabulary().size
        rows = batch.rows()
        home = batch.input_ids_BT.device
        positions = _positions_of(rows.sequence_N.tolist(), rows.position_N.tolist(), len(batch.keys))
        lengths = batch.attention_mask_BT.sum(dim=1).tolist()
        sequences = [ids[:length] for ids, length in zip(batch.input_ids_BT.tolist(), lengths, strict=True)]
        listed = self.distributions.of(list(zip(sequences, positions, strict=True)), k=min(k, vocabulary))
        return TeacherSignals(target=listed_target(listed, k=k, vocabulary=vocabulary).to(home))

    def generate(self, requests: Iterable[GenerationRequest], parameters: GenerationParameters) -> Iterator[Completion]:
        """Ask for every request, at most ``concurrency`` at a time; answers that are kept cost nothing.

        With the completions endpoint, chat turns are written out with the template of ``tokenizer``.

        Raises:
            SignalError: the server refuses, gives no log-probabilities though asked, or every attempt failed.
            BudgetSpent: the next request might exceed the budget.
        """
        if parameters.top_logprobs > self.options.top_logprobs:
            raise SignalError(
                f"top_logprobs = {parameters.top_logprobs} was asked of {self.label}, which lists at most "
                f"{self.options.top_logprobs} (option top_logprobs)"
            )
        questions = (
            (request, text_question(request, parameters, self.options, prompt=self._written_out(request)))
            for request in unique_requests(requests)
        )
        started_s = time.monotonic()
        for request, answered in self.asker.ask_all(questions):
            completion = self._completion(request, answered, parameters)
            self.tally.add(completion)
            now_s = time.monotonic()
            self.tally.seconds += now_s - started_s
            yield completion
            started_s = time.monotonic()

    @property
    def continues_prompts(self) -> bool:
        """Whether a prompt is gone on with; the chat endpoint answers it."""
        return self.options.endpoint == "completions"

    def most_spent(self, request: GenerationRequest, parameters: GenerationParameters) -> Spending:
        """The most that one attempt at a request can cost, by the options' prices."""
        question = text_question(request, parameters, self.options, prompt=self._written_out(request))
        return self.asker.most_spent(question)

    def watch_losses(self, watcher: Callable[[Spending], None] | None) -> None:
        """Tell ``watcher`` of every attempt that may have been paid for in vain, before the next one."""
        self.asker.on_loss = watcher

    def _written_out(self, request: GenerationRequest) -> str | None:
        """Chat turns as one prompt, for the completions endpoint."""
        if self.options.endpoint == "chat" or not request.messages:
            return request.prompt
        if self.options.tokenizer is None or not getattr(self._tokenizer, "chat_template", None):
            raise SignalError(
                f"request {request.id!r} has chat turns, but endpoint: completions takes text and there is no chat "
                "template: use endpoint: chat, or set `tokenizer` to one with a template"
            )
        messages = [dict(message) for message in request.messages]
        return str(self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))

    def _completion(
        self, request: GenerationRequest, answered: Answered, parameters: GenerationParameters
    ) -> Completion:
        read = answered.read
        tokens = None
        if parameters.top_logprobs:
            if read.positions is None and read.text:
                raise SignalError(
                    f"{self.label} wrote an answer without the log-probabilities that were asked for "
                    f"(top_logprobs: {parameters.top_logprobs}): it does not support them here; set top_logprobs to 0"
                )
            tokens = tuple(self._written(position) for position in read.positions or ())
        return Completion(
            id=request.id,
            text=read.text,
            finish_reason=read.finish_reason,
            prompt_tokens=answered.prompt_tokens,
            completion_tokens=answered.completion_tokens,
            tokens=tokens,
            cost=0.0 if answered.cached else answered.cost,
            cached=answered.cached,
        )

    def _written(self, position: Position) -> WrittenToken:
        token = position.token
        top = tuple(self._listed(shown) for shown in position.top or ())
        one = self._listed(token)
        return WrittenToken(one.text, one.logprob, one.id, top)

    def _listed(self, shown: Shown) -> TokenLogprob:
        index = None if self.options.tokenizer is None else self.texts.id_of(shown)
        return TokenLogprob(shown.text, float("nan") if shown.logprob is None else shown.logprob, index)


def _positions_of(sequence_N: Sequence[int], position_N: Sequence[int], n_sequences: int) -> list[list[int]]:
    """Per sequence, the positions of its rows, in order."""
    found: list[list[int]] = [[] for _ in range(n_sequences)]
    for sequence, position in zip(sequence_N, position_N, strict=True):
        found[sequence].append(position)
    return found
