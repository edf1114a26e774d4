"""Answers and spending in one SQLite file: paid once, counted before they are sent, safe against ``kill -9``.

Every attempt is written down with the most it can cost before it is sent, and corrected when it is settled. What a
killed process had under way stays counted in full. An answer and its price are written in one transaction. Costs are
whole billionths of the currency, so sums are exact.
"""

from __future__ import annotations

import contextlib
import hashlib
import sqlite3
import threading
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from distill_core.errors import DistillError
from distill_teachers.server.failures import BudgetSpent

NANO = 10**9
FORMAT = 1
"""Version of the file's tables."""

_TABLES = f"""
CREATE TABLE IF NOT EXISTS answers (
    key TEXT PRIMARY KEY, content BLOB NOT NULL, checksum BLOB NOT NULL,
    prompt_tokens INTEGER NOT NULL, completion_tokens INTEGER NOT NULL, cost INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS attempts (
    id INTEGER PRIMARY KEY, key TEXT NOT NULL, tokens INTEGER NOT NULL, cost INTEGER NOT NULL, state TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS spent (
    one INTEGER PRIMARY KEY CHECK (one = 1), tokens INTEGER NOT NULL, cost INTEGER NOT NULL
);
INSERT OR IGNORE INTO spent VALUES (1, 0, 0);
PRAGMA user_version = {FORMAT};
"""


@dataclass(frozen=True)
class Prices:
    """Prices per million tokens and the budget; None: no limit."""

    prompt: float = 0.0
    completion: float = 0.0
    max_cost: float | None = None
    max_tokens: int | None = None

    def cost(self, prompt_tokens: int, completion_tokens: int) -> int:
        """Billionths of the currency, rounded up.

        >>> Prices(prompt=0.15, completion=0.6).cost(1000, 10)
        156000
        """
        exact = prompt_tokens * self.prompt * 1000 + completion_tokens * self.completion * 1000
        return int(exact) + (exact > int(exact))


@dataclass(frozen=True)
class Answer:
    """A kept answer.

    Args:
        content: the server's JSON.
        prompt_tokens: read, as the server says.
        completion_tokens: written.
        cost: billionths of the currency.
    """

    content: bytes
    prompt_tokens: int
    completion_tokens: int
    cost: int


@dataclass(frozen=True)
class Reservation:
    """The most that an attempt under way can cost."""

    attempt: int
    key: str
    tokens: int
    cost: int


class Account:
    """The file of one server and model; shared by threads, and by processes.

    Args:
        path: of the file; made if it is not there.
        prices: and the budget.

    Raises:
        DistillError: the file is damaged, of another version, or cannot be written.
    """

    def __init__(self, path: Path, prices: Prices) -> None:
        self.path = path
        self.prices = prices
        self.damaged = 0
        self._changed = threading.Condition()
        self._under_way = 0
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._database = sqlite3.connect(path, timeout=60, isolation_level=None, check_same_thread=False)
            (version,) = self._database.execute("PRAGMA user_version").fetchone()
            if version not in (0, FORMAT):
                raise DistillError(
                    f"{path} was written by another version (format {version}, expected {FORMAT}): use another "
                    "cache_dir, or delete it (its answers are then paid again)"
                )
            self._database.execute("PRAGMA journal_mode = WAL")
            self._database.execute("PRAGMA synchronous = NORMAL")
            self._database.executescript(_TABLES)
        except (sqlite3.Error, OSError) as error:
            raise DistillError(
                f"the answers in {path} cannot be opened ({error}): check its permissions and the free space, or use "
                "another cache_dir"
            ) from error

    def close(self) -> None:
        with self._changed:
            self._database.close()

    def find(self, key: str) -> Answer | None:
        """The answer kept under a key; one whose checksum fails is dropped, to be asked for again."""
        with self._changed:
            row = self._database.execute(
                "SELECT content, checksum, prompt_tokens, completion_tokens, cost FROM answers WHERE key = ?", (key,)
            ).fetchone()
            if row is None:
                return None
            if _checksum(key, row[0]) == row[1]:
                return Answer(zlib.decompress(row[0]), *row[2:])
            self.damaged += 1
            self._database.execute("DELETE FROM answers WHERE key = ?", (key,))
            return None

    def __len__(self) -> int:
        """Number of kept answers."""
        with self._changed:
            return int(self._database.execute("SELECT COUNT(*) FROM answers").fetchone()[0])

    @property
    def spent(self) -> tuple[int, float]:
        """Tokens and cost so far, by all runs that share this file, with what is under way at its most."""
        with self._changed:
            return self._spent()

    def _spent(self) -> tuple[int, float]:
        tokens, cost = self._database.execute("SELECT tokens, cost FROM spent").fetchone()
        return int(tokens), cost / NANO

    def reserve(self, key: str, *, prompt_tokens: int, completion_tokens: int) -> Reservation:
        """Write down an attempt before it is sent; waits for attempts under way where they stand in its way.

        Args:
            key: of the question.
            prompt_tokens: the most it can read.
            completion_tokens: the most it can write.

        Raises:
            BudgetSpent: it might exceed the budget, and nothing is under way that might turn out cheaper.
        """
        tokens = prompt_tokens + completion_tokens
        cost = self.prices.cost(prompt_tokens, completion_tokens)
        with self._changed:
            while True:
                attempt = self._try_to_reserve(key, tokens, cost)
                if attempt is not None:
                    self._under_way += 1
                    return Reservation(attempt, key, tokens, cost)
                if not self._under_way:
                    raise BudgetSpent(self._refusal(tokens, cost))
                self._changed.wait()

    def _try_to_reserve(self, key: str, tokens: int, cost: int) -> int | None:
        limit_cost = None if self.prices.max_cost is None else int(self.prices.max_cost * NANO)
        with self._transaction():
            spent_tokens, spent_cost = self._database.execute("SELECT tokens, cost FROM spent").fetchone()
            if self.prices.max_tokens is not None and spent_tokens + tokens > self.prices.max_tokens:
                return None
            if limit_cost is not None and spent_cost + cost > limit_cost:
                return None
            cursor = self._database.execute(
                "INSERT INTO attempts (key, tokens, cost, state) VALUES (?, ?, ?, 'under way')", (key, tokens, cost)
            )
            self._database.execute("UPDATE spent SET tokens = tokens + ?, cost = cost + ?", (tokens, cost))
            return int(cursor.lastrowid or 0)

    def _refusal(self, tokens: int, cost: int) -> str:
        spent_tokens, spent_cost = self._spent()
        limits = []
        if self.prices.max_cost is not None:
            limits.append(f"max_cost: {self.prices.max_cost:g} (spent {spent_cost:.6g}, next up to {cost / NANO:.6g})")
        if self.prices.max_tokens is not None:
            limits.append(f"max_tokens: {self.prices.max_tokens} (spent {spent_tokens}, next up to {tokens})")
        return (
            f"the budget of the server teacher is spent: {'; '.join(limits)}. It counts every run that shares "
            f"{self.path}. Raise it and run again: the answers so far are kept and cost nothing; or use another "
            "cache_dir"
        )

    def settle(self, reservation: Reservation, answer: Answer) -> None:
        """Keep an answer and count what it really cost instead of the most it could."""
        content = zlib.compress(answer.content, 6)
        tokens = answer.prompt_tokens + answer.completion_tokens
        with self._changed, self._end():
            self._correct(reservation, tokens, answer.cost, "settled")
            self._database.execute(
                "INSERT OR REPLACE INTO answers VALUES (?, ?, ?, ?, ?, ?)",
                (
                    reservation.key,
                    content,
                    _checksum(reservation.key, content),
                    answer.prompt_tokens,
                    answer.completion_tokens,
                    answer.cost,
                ),
            )

    def fail(self, reservation: Reservation, *, charged: bool) -> None:
        """An attempt without an answer: counted in full if the server may have done the work, else not at all."""
        with self._changed, self._end():
            if charged:
                self._correct(reservation, reservation.tokens, reservation.cost, "presumed")
            else:
                self._correct(reservation, 0, 0, "free")

    def _correct(self, reservation: Reservation, tokens: int, cost: int, state: str) -> None:
        self._database.execute(
            "UPDATE attempts SET tokens = ?, cost = ?, state = ? WHERE id = ?",
            (tokens, cost, state, reservation.attempt),
        )
        self._database.execute(
            "UPDATE spent SET tokens = tokens + ?, cost = cost + ?",
            (tokens - reservation.tokens, cost - reservation.cost),
        )

    @contextlib.contextmanager
    def _end(self) -> Iterator[None]:
        """A transaction after which an attempt is no longer under way, whether it could be written or not."""
        try:
            with self._transaction():
                yield
        finally:
            self._under_way -= 1
            self._changed.notify_all()

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        """``BEGIN IMMEDIATE`` to ``COMMIT``, or rolled back."""
        try:
            self._database.execute("BEGIN IMMEDIATE")
            yield
            self._database.execute("COMMIT")
        except BaseException as error:
            with contextlib.suppress(sqlite3.Error):
                self._database.execute("ROLLBACK")
            if isinstance(error, sqlite3.Error):
                raise DistillError(
                    f"{self.path} cannot be written ({error}): answers until now are kept. See to free space and "
                    "permissions, and run again"
                ) from error
            raise


def _checksum(key: str, content: bytes) -> bytes:
    return hashlib.blake2b(content, key=key.encode("ascii")[:64], digest_size=16).digest()
