"""The ledger: never beyond its limits, whatever is under way, lost or killed."""

from __future__ import annotations

import json
import random
import threading
from pathlib import Path

import pytest

from distill_core.completions import Completion, GenerationParameters, GenerationRequest, Spending
from distill_core.errors import DataError, SignalError
from distill_synthesis.asking.completion_cache import CompletionCache
from distill_synthesis.asking.ledger import FILE, Ledger, LedgerSpent
from tests.generation.scribe import Scribe


@pytest.mark.parametrize("seed", range(5))
def test_what_is_spent_never_exceeds_the_limits(tmp_path: Path, seed: int) -> None:
    """Random requests, answers, losses and restarts; beside it a plain account of what was really paid."""
    draw = random.Random(seed)
    limit_tokens, limit_cost = 2_000, 0.5
    ledger = Ledger(tmp_path, tokens=limit_tokens, cost=limit_cost)
    paid_tokens, paid_cost, refused = 0, 0.0, 0
    under_way: dict[str, Spending] = {}
    for number in range(400):
        action = draw.random()
        if action < 0.5:
            most = Spending(draw.randrange(1, 60), draw.random() * 0.02)
            if ledger.admit(f"r{number}", most):
                under_way[f"r{number}"] = most
            else:
                refused += 1
        elif action < 0.9 and under_way:
            key = draw.choice(sorted(under_way))
            most = under_way.pop(key)
            tokens, cost = draw.randrange(1, most.tokens + 1), most.cost * draw.random()
            ledger.settle(key, Completion(key, "text", prompt_tokens=tokens, cost=cost))
            paid_tokens, paid_cost = paid_tokens + tokens, paid_cost + cost
        elif action < 0.95 and under_way:
            most = under_way[draw.choice(sorted(under_way))]
            try:
                ledger.lost(most)
                paid_tokens, paid_cost = paid_tokens + most.tokens, paid_cost + most.cost
            except LedgerSpent:
                ledger.closed = False
        elif action > 0.985:  # killed: everything under way may have been paid
            paid_tokens += sum(most.tokens for most in under_way.values())
            paid_cost += sum(most.cost for most in under_way.values())
            under_way.clear()
            ledger = Ledger(tmp_path, tokens=limit_tokens, cost=limit_cost)
        open_tokens = sum(most.tokens for most in under_way.values())
        assert ledger.spent.tokens == paid_tokens + open_tokens <= limit_tokens
        open_cost = sum(most.cost for most in under_way.values())
        assert paid_cost + open_cost <= ledger.spent.cost <= limit_cost
        assert ledger.spent.cost - paid_cost - open_cost < 400e-9  # rounded up to billionths
    assert refused, "the limits were never felt"


def test_threads_cannot_overdraw_it(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, tokens=50)
    assert ledger.admit("a", Spending(10))
    spent = []

    def lose() -> None:
        try:
            ledger.lost(Spending(3))
        except LedgerSpent:
            spent.append(True)

    threads = [threading.Thread(target=lose) for _ in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ledger.spent.tokens == 10 + 13 * 3 and len(spent) == 27 and ledger.closed


def test_a_torn_line_is_cut_off_and_a_damaged_one_is_told(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, tokens=100)
    ledger.admit("a", Spending(30))
    whole = (tmp_path / FILE).read_bytes()
    (tmp_path / FILE).write_bytes(whole + b'{"settle": "a", "tok')
    assert Ledger(tmp_path, tokens=100).spent.tokens == 30  # reserved and never settled
    assert (tmp_path / FILE).read_bytes() == whole
    (tmp_path / FILE).write_bytes(b"nonsense\n" + whole)
    with pytest.raises(DataError, match="line 1: no JSON object: the file is damaged"):
        Ledger(tmp_path)


def requests(n: int) -> list[GenerationRequest]:
    return [GenerationRequest(f"q{i}", prompt="word " * (i % 5 + 1)) for i in range(n)]


def test_what_is_under_way_is_finished_before_the_budget_is_said_to_be_spent(tmp_path: Path) -> None:
    """The most of the first four fills the budget; what they really cost leaves room for many more."""
    parameters = GenerationParameters(max_new_tokens=20)
    teacher = Scribe(lambda request: "yes", ahead=100)
    ledger = Ledger(tmp_path, tokens=100)
    found = CompletionCache(tmp_path, teacher).affordable(requests(60), parameters, ledger)
    given = [one for one in found if one is not None]
    assert found[: len(given)] == given and 15 < len(given) < 60
    assert teacher.paid == ledger.spent.tokens <= 100
    assert ledger.spent.tokens + 20 + len(given) % 5 + 1 > 100, "it stopped although the next one was covered"
    assert len(teacher.asked) == len(given)


def test_answers_of_before_are_free_even_when_the_budget_is_spent(tmp_path: Path) -> None:
    parameters = GenerationParameters(max_new_tokens=20)
    first = Scribe(lambda request: "yes")
    CompletionCache(tmp_path, first).affordable(requests(5), parameters, Ledger(tmp_path, tokens=1_000))
    again = Scribe(lambda request: "yes")
    spent = Ledger(tmp_path, tokens=21)
    found = CompletionCache(tmp_path, again).affordable(requests(8), parameters, spent)
    assert [one is None for one in found] == [False] * 5 + [True] * 3 and again.asked == []


def test_a_reservation_is_released_on_resume_only_where_its_answer_was_kept(tmp_path: Path) -> None:
    """Killed between an answer and its settlement, with another request under way, which may have been billed."""
    ledger = Ledger(tmp_path, tokens=1_000)
    assert ledger.admit("answered", Spending(300)) and ledger.admit("unknown", Spending(200))
    again = Ledger(tmp_path, tokens=1_000)
    assert again.spent.tokens == 500
    again.settle_kept(
        {"answered": Completion("q", "yes", prompt_tokens=7, completion_tokens=5), "other": Completion("o", "")}
    )
    assert again.spent.tokens == 200 + 12
    assert not again.admit("too much", Spending(1_000 - 212 + 1)) and again.admit("fits", Spending(1_000 - 212))
    third = Ledger(tmp_path, tokens=1_000)
    assert third.spent.tokens == 1_000
    third.settle_kept({"answered": Completion("q", "yes", prompt_tokens=7, completion_tokens=5)})
    assert third.spent.tokens == 1_000, "settled twice"


def test_the_same_request_reserved_by_two_processes_is_released_once(tmp_path: Path) -> None:
    """The first may have been billed in vain; the second's answer says what the second cost."""
    for _ in range(2):
        assert Ledger(tmp_path, tokens=1_000).admit("a", Spending(300))
    third = Ledger(tmp_path, tokens=1_000)
    third.settle_kept({"a": Completion("q", "yes", prompt_tokens=6, completion_tokens=4)})
    assert third.spent.tokens == 300 + 10


def test_nobody_counted_is_the_most_and_cached_is_nothing(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    for key, completion in (
        ("uncounted", Completion("q", "yes")),
        ("cached", Completion("q", "yes", prompt_tokens=9, completion_tokens=9, cached=True)),
    ):
        before = ledger.spent.tokens
        assert ledger.admit(key, Spending(50, 0.1))
        ledger.settle(key, completion)
        assert ledger.spent.tokens - before == {"uncounted": 50, "cached": 0}[key]
    assert [json.loads(line)["tokens"] for line in (tmp_path / FILE).read_text().splitlines()] == [50, 50, 50, 0]


def test_nobody_counted_is_the_most_in_money_too(tmp_path: Path) -> None:
    """A server that bills without counting tokens: what the request could cost at most is what it did cost."""
    ledger = Ledger(tmp_path, tokens=None, cost=1.0)
    assert ledger.admit("a", Spending(50, 0.4))
    ledger.settle("a", Completion("a", "text"))
    assert ledger.spent == Spending(50, 0.4)


def test_half_a_surrogate_pair_can_be_kept(tmp_path: Path) -> None:
    parameters = GenerationParameters()
    cache = CompletionCache(tmp_path, Scribe(lambda request: "a \ud83d b"))
    (written,) = cache.affordable(requests(1), parameters, Ledger(tmp_path))
    again = CompletionCache(tmp_path, Scribe(lambda request: "asked again"))
    assert again.affordable(requests(1), parameters, Ledger(tmp_path)) == [written]
    assert written is not None and written.text == "a ? b"


def test_a_teacher_that_swallows_requests_is_told(tmp_path: Path) -> None:
    class Lazy(Scribe):
        def generate(self, requests, parameters):  # type: ignore[no-untyped-def]
            yield from list(super().generate(requests, parameters))[:-1]

    lazy = Lazy(lambda request: "yes")
    with pytest.raises(SignalError, match="gave 2 answers to 3 requests"):
        CompletionCache(tmp_path, lazy).affordable(requests(3), GenerationParameters(), Ledger(tmp_path))
