"""Asking many questions: each is paid once, answered once, in order, a bounded number at a time."""

from __future__ import annotations

import hashlib
import json
import threading
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception_type,
    sleep_using_event,
    stop_after_attempt,
    stop_any,
    stop_when_event_set,
    wait_random_exponential,
)

from distill_core.completions import Spending
from distill_core.errors import SignalError
from distill_teachers.gguf_location import cache_directory
from distill_teachers.openai_options import OpenAIOptions
from distill_teachers.server.account import NANO, Account, Answer, Prices
from distill_teachers.server.connection import Connection, Reply
from distill_teachers.server.failures import Transient
from distill_teachers.server.pacing import Pacer
from distill_teachers.server.questions import Question
from distill_teachers.server.reading import ReadAnswer, Unreadable, read_answer
from distill_teachers.server.secret import ApiKey

Tag = TypeVar("Tag")


@dataclass(frozen=True)
class Answered:
    """An answer, understood.

    Args:
        read: what it says.
        prompt_tokens: read, as the server says or at most.
        completion_tokens: written.
        cost: in the currency of the prices.
        cached: nothing was sent.
    """

    read: ReadAnswer
    prompt_tokens: int
    completion_tokens: int
    cost: float
    cached: bool


def account_path(options: OpenAIOptions) -> Path:
    """The file of this server and model: one account for each."""
    name = hashlib.blake2b(f"{options.base_url}\n{options.model}".encode(), digest_size=10).hexdigest()
    return cache_directory(options.cache_dir) / "answers" / f"{name}.sqlite"


class Asker:
    """Asks a server; see the module.

    Args:
        options: of the teacher.

    Raises:
        DistillError: no key, or the account cannot be opened.
    """

    def __init__(self, options: OpenAIOptions) -> None:
        self.options = options
        self._connection = Connection(options, ApiKey.from_environment(options.api_key_env), Pacer())
        prices = Prices(options.prompt_price, options.completion_price, options.max_cost, options.max_tokens)
        self.account = Account(account_path(options), prices)
        self.on_loss: Callable[[Spending], None] | None = None
        self._guard = threading.Lock()
        self._asked: dict[str, threading.Lock] = {}

    def close(self) -> None:
        """Close the connections and the account."""
        self._connection.close()
        self.account.close()

    def most_spent(self, question: Question) -> Spending:
        """The most that one attempt at a question can cost."""
        cost = self.account.prices.cost(question.prompt_tokens, question.completion_tokens)
        return Spending(question.prompt_tokens + question.completion_tokens, cost / NANO)

    def ask(self, question: Question, *, fresh: bool = False, stop: threading.Event | None = None) -> Answered:
        """One answer, kept or new; two threads with the same question share one.

        Args:
            question: what to ask.
            fresh: ask in any case, and keep the answer from everybody else.
            stop: once set, failures are not followed by another attempt.

        Raises:
            ServerRefused: the server will not answer.
            BudgetSpent: it might exceed the budget.
            SignalError: every attempt failed.
        """
        stop = threading.Event() if stop is None else stop
        key = question.key(self.options.base_url)
        if fresh:
            return self._understood(self._ask_server(question, f"fresh-{uuid.uuid4()}", stop), cached=False)
        with self._guard:
            turn = self._asked.setdefault(key, threading.Lock())
        try:
            with turn:
                kept = self.account.find(key)
                if kept is not None:
                    return self._understood(kept, cached=True)
                return self._understood(self._ask_server(question, key, stop), cached=False)
        finally:
            with self._guard:
                self._asked.pop(key, None)

    def ask_all(self, questions: Iterable[tuple[Tag, Question]]) -> Iterator[tuple[Tag, Answered]]:
        """Answers in the order of the questions, at most ``concurrency`` under way.

        If one fails for good, those under way are finished and kept before its error is raised.
        """
        stop = threading.Event()
        with ThreadPoolExecutor(self.options.concurrency, thread_name_prefix="ask") as pool:
            waiting: deque[tuple[Tag, Future[Answered]]] = deque()
            try:
                for tag, question in questions:
                    waiting.append((tag, pool.submit(self.ask, question, stop=stop)))
                    if len(waiting) >= 4 * self.options.concurrency:
                        first, future = waiting.popleft()
                        yield first, future.result()
                while waiting:
                    first, future = waiting.popleft()
                    yield first, future.result()
            finally:
                stop.set()
                for _, future in waiting:
                    future.cancel()

    def _ask_server(self, question: Question, key: str, stop: threading.Event) -> Answer:
        longest_s = self.options.max_wait_s
        backoff = wait_random_exponential(multiplier=self.options.backoff_s, max=longest_s)

        def wait(state: RetryCallState) -> float:
            error = state.outcome.exception() if state.outcome is not None else None
            return max(backoff(state), error.retry_after_s if isinstance(error, Transient) else 0.0)

        retrying = Retrying(
            stop=stop_any(stop_after_attempt(self.options.attempts), stop_when_event_set(stop)),
            wait=wait,
            sleep=sleep_using_event(stop),
            retry=retry_if_exception_type(Transient),
            reraise=True,
        )
        try:
            return retrying(self._attempt, question, key)
        except Transient as error:
            raise SignalError(
                f"{self.options.address} gave no usable answer in {self.options.attempts} attempts (attempts); the "
                f"last one: {error}. Answers so far are kept: run again to go on from them"
            ) from None

    def _attempt(self, question: Question, key: str) -> Answer:
        reservation = self.account.reserve(
            key, prompt_tokens=question.prompt_tokens, completion_tokens=question.completion_tokens
        )
        try:
            reply = self._connection.post(question.path, question.payload)
            answer = self._priced(reply, question)
        except BaseException as error:
            charged = getattr(error, "charged", True)
            self.account.fail(reservation, charged=charged)
            if charged and isinstance(error, Transient) and self.on_loss is not None:
                self.on_loss(self.most_spent(question))
            raise
        self.account.settle(reservation, answer)
        return answer

    def _priced(self, reply: Reply, question: Question) -> Answer:
        try:
            read = read_answer(reply.body)
        except Unreadable as error:
            raise Transient(f"the answer is not of the expected form ({error})", charged=True) from None
        prompt = question.prompt_tokens if read.prompt_tokens is None else read.prompt_tokens
        written = question.completion_tokens if read.completion_tokens is None else read.completion_tokens
        return Answer(reply.content, prompt, written, self.account.prices.cost(prompt, written))

    def _understood(self, answer: Answer, *, cached: bool) -> Answered:
        read = read_answer(json.loads(answer.content))
        return Answered(read, answer.prompt_tokens, answer.completion_tokens, answer.cost / NANO, cached)
