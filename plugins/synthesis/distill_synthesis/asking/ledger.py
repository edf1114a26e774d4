"""A budget in tokens and money: reserved before a request is asked, settled after, safe against ``kill -9``.

Every reservation is on disk before its request is sent. What a killed process had reserved and not settled is settled
by its answer where that reached the disk; the rest stays counted in full, because nobody knows whether it was paid, and
releasing it could exceed the budget. Costs are whole billionths of the currency, rounded up.
"""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distill_core.completions import Completion, GenerationParameters, GenerationRequest, Spending
from distill_core.errors import DistillError
from distill_core.files import append_line
from distill_synthesis.asking.json_lines import whole_lines

FILE = "ledger.jsonl"
NANO = 10**9

UNCOUNTED_TEMPLATE_TOKENS = 256
"""What a chat template may add to a prompt where the teacher does not say."""


class LedgerSpent(DistillError):
    """Another attempt at a request might exceed the budget."""


class Ledger:
    """What was spent in a directory, over all attempts at its stage.

    Args:
        directory: where the file is.
        tokens: most tokens, read and written; None: no limit.
        cost: most money, in the currency of the teacher's prices; None: no limit.

    >>> import tempfile
    >>> ledger = Ledger(Path(tempfile.mkdtemp()), tokens=100)
    >>> ledger.admit("a", Spending(80, 0.0)), ledger.admit("b", Spending(30, 0.0))
    (True, False)
    >>> ledger.settle("a", Completion("a", "yes", prompt_tokens=10, completion_tokens=5))
    >>> ledger.admit("b", Spending(30, 0.0)), ledger.spent.tokens
    (True, 45)
    """

    def __init__(self, directory: Path, *, tokens: int | None = None, cost: float | None = None) -> None:
        self.path = directory / FILE
        self.most_tokens = tokens
        self.most_nano = None if cost is None else math.floor(cost * NANO)
        self.closed = False
        self._tokens = self._nano = 0
        self._open: dict[str, tuple[int, int]] = {}
        self._guard = threading.Lock()
        for row in whole_lines(self.path):
            self._count(row)
        self._left, self._open = self._open, {}  # of a process that is gone: counted in full, but for answers it kept

    @property
    def spent(self) -> Spending:
        """With what is under way at its most."""
        with self._guard:
            return Spending(self._tokens, self._nano / NANO)

    def admit(self, key: str, most: Spending) -> bool:
        """Reserve for a request; False, and nothing reserved, where it might exceed the budget."""
        nano = math.ceil(most.cost * NANO)
        with self._guard:
            if self.closed or not self._fits(most.tokens, nano):
                return False
            self._write({"reserve": key, "tokens": most.tokens, "nano": nano})
            return True

    def settle(self, key: str, completion: Completion) -> None:
        """Count what an answer really cost: nothing if it was not asked for, the most where nobody counted."""
        with self._guard:
            most_tokens, most_nano = self._open[key]
            tokens = completion.prompt_tokens + completion.completion_tokens
            spent = (0, 0) if completion.cached else (tokens, math.ceil(completion.cost * NANO))
            if not completion.cached and not tokens:
                spent = (most_tokens, max(most_nano, spent[1]))
            self._write({"settle": key, "tokens": spent[0], "nano": spent[1]})

    def settle_kept(self, answers: Mapping[str, Completion]) -> None:
        """Settle what a killed process had reserved and whose answer it kept, by key, before it could settle it."""
        for key in [key for key in self._left if key in answers]:
            self._open[key] = self._left.pop(key)
            self.settle(key, answers[key])

    def lost(self, most: Spending) -> None:
        """An attempt that may have been paid for in vain; another one is about to be made. Called from any thread.

        Raises:
            LedgerSpent: the other one might exceed the budget, so it must not be made.
        """
        nano = math.ceil(most.cost * NANO)
        with self._guard:
            if not self._fits(most.tokens, nano):
                self.closed = True
                raise LedgerSpent("the budget does not cover another attempt")
            self._write({"lost": True, "tokens": most.tokens, "nano": nano})

    def close(self) -> None:
        """Nothing is admitted from now on."""
        self.closed = True

    def _fits(self, tokens: int, nano: int) -> bool:
        if self.most_tokens is not None and self._tokens + tokens > self.most_tokens:
            return False
        return self.most_nano is None or self._nano + nano <= self.most_nano

    def _write(self, row: dict[str, Any]) -> None:
        append_line(self.path, json.dumps(row))
        self._count(row)

    def _count(self, row: dict[str, Any]) -> None:
        tokens, nano = int(row["tokens"]), int(row["nano"])
        self._tokens, self._nano = self._tokens + tokens, self._nano + nano
        if "reserve" in row:
            self._open[row["reserve"]] = (tokens, nano)
        elif "settle" in row:
            reserved_tokens, reserved_nano = self._open.pop(row["settle"])
            self._tokens, self._nano = self._tokens - reserved_tokens, self._nano - reserved_nano


def most_spent(teacher: Any, request: GenerationRequest, parameters: GenerationParameters) -> Spending:
    """The most that a request can cost: as the teacher says, else a token per byte and no money.

    >>> most_spent(object(), GenerationRequest("q", prompt="naive"), GenerationParameters(max_new_tokens=10)).tokens
    279
    """
    own = getattr(teacher, "most_spent", None)
    if callable(own):
        spending: Spending = own(request, parameters)
        return spending
    texts = [request.prompt] if request.prompt is not None else [t for turn in request.messages for t in turn.values()]
    read = sum(len(text.encode("utf-8")) + 8 for text in texts)
    return Spending(read + UNCOUNTED_TEMPLATE_TOKENS + parameters.max_new_tokens, 0.0)
