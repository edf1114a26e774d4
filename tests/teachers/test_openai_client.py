"""The ``openai`` teacher's client: keys, options, waiting, failures, the account, and what users are told."""

from __future__ import annotations

import json
import os
import sqlite3
import time
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest

from distill_core.completions import Completion, GenerationParameters, GenerationRequest
from distill_core.engine.run_file.loading import parse_run_text
from distill_core.engine.run_file.validate import check_run
from distill_core.errors import ConfigError, DistillError, SignalError
from distill_core.interfaces import Generator
from distill_core.registry import get_registry
from distill_teachers.openai import OpenAITeacher
from distill_teachers.openai_options import OpenAIOptions
from distill_teachers.server.account import Account, Answer, Prices
from distill_teachers.server.asking import account_path
from distill_teachers.server.failures import BudgetSpent, ServerRefused
from distill_teachers.server.pacing import exhausted_s, retry_after_s
from distill_teachers.server.reading import Unreadable, read_answer
from tests.teachers.faults.fake_server import FakeServer, answer_to, words
from tests.teachers.faults.http_server import HTTPServer, Json, response

KEY = "sk-client-test-0123456789abcdef"
ASK = [GenerationRequest("q", prompt="a question")]
GREEDY = GenerationParameters(max_new_tokens=20)


def teacher(url: str, directory: Path, **options: Any) -> OpenAITeacher:
    given = {"model": "fake", "api_key_env": None, "cache_dir": str(directory), "attempts": 3, "backoff_s": 0.001}
    return OpenAITeacher(OpenAIOptions(base_url=url, **{**given, **options}))


def answer_of(one: OpenAITeacher, requests: Any = ASK, parameters: GenerationParameters = GREEDY) -> list[Completion]:
    try:
        return list(one.generate(requests, parameters))
    finally:
        one.close()


def scripted(*answers: bytes) -> HTTPServer:
    """A server that gives these answers in turn, the last one for ever."""
    left = list(answers)

    async def handle(request: Any, writer: Any) -> None:
        writer.write(left.pop(0) if len(left) > 1 else left[0])

    return HTTPServer(handle)


def good(number: int = 0, **changes: Any) -> bytes:
    choice = {"text": "fine", "message": {"role": "assistant", "content": "fine"}, "finish_reason": "stop"}
    body = {"id": f"x{number}", "choices": [choice], "usage": {"prompt_tokens": 3, "completion_tokens": 2}, **changes}
    return response(json.dumps(body).encode())


@pytest.mark.parametrize("endpoint", ["chat", "completions"])
def test_answers_are_paid_once(endpoint: str, tmp_path: Path) -> None:
    requests = [GenerationRequest(f"q{i}", prompt=f"question {i % 5}") for i in range(20)]
    prices = {"prompt_price": 0.5, "completion_price": 2.0}
    with FakeServer() as server:
        one = teacher(server.url, tmp_path, endpoint=endpoint, **prices)
        found = answer_of(one, requests)
        assert [a.text for a in found] == [answer_to(f"question {i % 5}") for i in range(20)]
        assert sum(server.served.values()) == 5  # the same prompt, greedy, is one question
        assert sum(not a.cached for a in found) == 5
        expected = (server.prompt_tokens * 0.5 + server.written_tokens * 2.0) / 1e6
        assert sum(a.cost for a in found) == pytest.approx(expected, abs=1e-8)
        assert one.tally.cost == pytest.approx(expected, abs=1e-8)
        assert (one.tally.requests, one.tally.cached) == (20, 15)
        assert one.tally.completion_tokens == server.written_tokens
        again = teacher(server.url, tmp_path, endpoint=endpoint, **prices)
        assert all(a.cached and a.cost == 0 for a in answer_of(again, requests))
        assert sum(server.served.values()) == 5
        assert isinstance(again, Generator)


def test_the_key_of_an_answer_covers_all_it_depends_on(tmp_path: Path) -> None:
    """Model, endpoint, prompt, every parameter, further fields, seed and id of samples, and the reader's version."""
    sampled = GenerationParameters(max_new_tokens=20, temperature=1.0)
    with FakeServer() as server:

        def asked(parameters: GenerationParameters = GREEDY, requests: Any = ASK, **options: Any) -> int:
            before = sum(server.served.values())
            answer_of(teacher(server.url, tmp_path, **options), requests, parameters)
            return sum(server.served.values()) - before

        assert asked() == 1 and asked() == 0
        assert asked(endpoint="completions") == 1
        assert asked(model="other") == 1
        assert asked(extra={"min_p": 0.1}) == 1
        assert asked(GenerationParameters(max_new_tokens=21)) == 1
        assert asked(GenerationParameters(max_new_tokens=20, stop=("x",))) == 1
        assert asked(sampled) == 1 and asked(sampled) == 0
        assert asked(GenerationParameters(max_new_tokens=20, temperature=1.0, seed=1)) == 1
        assert asked(GenerationParameters(max_new_tokens=20, temperature=1.0, top_p=0.9)) == 1
        several = [GenerationRequest(f"q#{i}", prompt="a question") for i in range(4)]
        assert asked(sampled, several) == 4
        assert asked(sampled, several, send_seed=False) == 4
        assert "seed" not in server.payloads[-1]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("distill_teachers.server.questions.PARSER_VERSION", 2)
            assert asked() == 1
        with FakeServer() as elsewhere:  # the same question at another address is another question
            answer_of(teacher(elsewhere.url, tmp_path), ASK, GREEDY)
            assert sum(elsewhere.served.values()) == 1


def test_payloads(tmp_path: Path) -> None:
    turns = ({"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"})
    parameters = GenerationParameters(max_new_tokens=9, temperature=0.5, top_p=0.9, stop=("\n",), top_logprobs=4)

    def choice(payload: Json) -> tuple[Json, int, int]:
        message = {"role": "assistant", "content": "Hi"}
        entry = {"token": "Hi", "logprob": -0.1, "bytes": [72, 105], "top_logprobs": []}
        return {"message": message, "finish_reason": "stop", "logprobs": {"content": [entry]}}, 3, 1

    with FakeServer(choice) as server:
        one = teacher(server.url, tmp_path, extra={"min_p": 0.0}, max_tokens_field="max_completion_tokens")
        (answer,) = answer_of(one, [GenerationRequest("c", messages=turns)], parameters)
        (payload,) = server.payloads
    assert answer.tokens is not None and (answer.tokens[0].logprob, answer.tokens[0].id) == (-0.1, None)
    seed = payload.pop("seed")
    assert isinstance(seed, int) and 0 <= seed < 2**31
    assert payload == {
        "model": "fake", "messages": list(turns), "max_completion_tokens": 9, "temperature": 0.5, "top_p": 0.9,
        "stop": ["\n"], "logprobs": True, "top_logprobs": 4, "min_p": 0.0,
    }  # fmt: skip


def test_concurrency_is_bounded_and_used(tmp_path: Path) -> None:
    requests = [GenerationRequest(f"q{i}", prompt=f"question {i}") for i in range(60)]
    with FakeServer(delay_s=0.02) as server:
        answer_of(teacher(server.url, tmp_path, concurrency=6), requests)
        assert 4 <= server.most_under_way <= 6


def test_waits_as_long_as_a_server_asks(tmp_path: Path) -> None:
    busy = response(b"{}", status=429, headers={"Retry-After": "1"})
    with scripted(busy, good()) as server:
        started_s = time.monotonic()
        assert answer_of(teacher(server.url, tmp_path))[0].text == "fine"
        assert time.monotonic() - started_s >= 1.0
    used_up = {"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "0.4s"}
    full = good().replace(
        b"\r\n\r\n", b"\r\n" + b"\r\n".join(f"{k}: {v}".encode() for k, v in used_up.items()) + b"\r\n\r\n", 1
    )
    with scripted(full, good(1)) as server:
        two = [GenerationRequest(f"q{i}", prompt=f"question {i}") for i in range(2)]
        started_s = time.monotonic()
        answer_of(teacher(server.url, tmp_path, concurrency=1), two)
        assert time.monotonic() - started_s >= 0.4


def test_headers_in_every_form() -> None:
    now = datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone.utc)
    date = format_datetime(now + timedelta(seconds=90), usegmt=True)
    assert retry_after_s({"retry-after": date}, now=now) == 90
    assert retry_after_s({"retry-after": format_datetime(now - timedelta(seconds=9), usegmt=True)}, now=now) == 0
    assert retry_after_s({"retry-after": "whenever"}) is None
    assert retry_after_s({}) is None
    limits = {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "1m2s"}
    assert exhausted_s(limits) == 62
    assert exhausted_s({**limits, "x-ratelimit-remaining-requests": "3"}) == 0


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ([response(b"oops", status=500)], r"no usable answer in 3 attempts \(attempts\); the last one: HTTP 500: oops"),
        ([response(b'{"a": ')], "is no whole JSON"),
        ([response(b"[]")], "a JSON list, expected an object"),
        ([response(b'{"choices": []}')], "not of the expected form"),
        ([good(usage={"prompt_tokens": -1})], "not of the expected form"),
        ([response(b'{"error": {"message": "no such model"}}', status=404)], "model 'fake': HTTP 404: no such model"),
        (
            [response(b'{"error": {"message": "pay", "code": "insufficient_quota"}}', status=429)],
            r"has no quota left: pay \(insufficient_quota\)",
        ),
        (
            [response(b"{}", status=429, headers={"Retry-After": "86400"})],
            "asks to wait 86400 s, longer than max_wait_s",
        ),
    ],
    ids=["500", "half", "list", "empty", "usage", "404", "quota", "tomorrow"],
)
def test_what_is_said_when_nothing_helps(answers: list[bytes], message: str, tmp_path: Path) -> None:
    with scripted(*answers) as server, pytest.raises(SignalError, match=message):
        answer_of(teacher(server.url, tmp_path))


def test_no_server(tmp_path: Path) -> None:
    with pytest.raises(SignalError, match=r"no connection to http://127.0.0.1:9/v1"):
        answer_of(teacher("http://127.0.0.1:9/v1", tmp_path))


def test_a_key_is_shown_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not where the server refuses it and repeats it, nor in what is kept, nor by repr."""
    monkeypatch.setenv("CLIENT_TEST_KEY", KEY)
    with FakeServer(key="another") as server:
        one = teacher(server.url, tmp_path, api_key_env="CLIENT_TEST_KEY")
        with pytest.raises(
            ServerRefused, match=r"refuses the key in CLIENT_TEST_KEY: HTTP 401: .*Bearer \*\*\*"
        ) as caught:
            answer_of(one)
    assert KEY not in str(caught.value) + repr(one.options) + repr(vars(one))

    def parrot(payload: Json) -> tuple[Json, int, int]:
        return {"message": {"role": "assistant", "content": f"your key is {KEY}"}, "finish_reason": "stop"}, 3, 1

    with FakeServer(parrot, key=KEY) as server:
        (answer,) = answer_of(teacher(server.url, tmp_path, api_key_env="CLIENT_TEST_KEY"))
    assert answer.text == "your key is ***"
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or KEY.encode() not in path.read_bytes()


def run_file(**options: Any) -> str:
    teacher_options = json.dumps({"use": "openai", "model": "m", **options})
    return f"""
name: x
output_dir: runs/x
teacher: {teacher_options}
student: {{tokenizer: org/name, init: {{model: org/student}}}}
data:
  train: {{source: {{use: text-files, paths: [README.md]}}}}
  eval: {{source: {{use: text-files, paths: [README.md]}}}}
capture: {{method: topk, k: 5}}
train: {{objectives: [{{use: forward-kl}}], max_steps: 1}}
"""


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"api_key_env": "NO_SUCH_KEY"}, "api_key_env.*environment variable NO_SUCH_KEY is not set"),
        ({"api_key_env": KEY}, r"expected the name of an environment variable.*\(not shown, it may be a key\)"),
        ({"base_url": f"https://user:{KEY}@host/v1"}, r"base_url.*carries credentials or a query \(not shown\)"),
        ({"api_key_env": None, "base_url": "host/v1"}, "expected an address such as"),
        ({"api_key_env": None, "max_cost": 5}, "nothing is counted without prompt_price and completion_price"),
        ({"api_key_env": None, "extra": {"echo": True}}, r"\['echo'\] are filled in by the teacher itself"),
        ({"api_key_env": None}, "topk needs exact targets, but the teacher .*openai gives no targets"),
        ({"api_key_env": None, "api_key": KEY}, "api_key.*unknown option"),
    ],
    ids=["unset", "a-key", "in-the-url", "no-address", "no-prices", "own-field", "no-tokenizer", "key-option"],
)
def test_what_validation_says(options: Json, message: str, repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(repository)
    with pytest.raises(ConfigError, match=message) as caught:
        check_run(parse_run_text(run_file(**options)), registry=get_registry())
    assert KEY not in str(caught.value)


def test_validation_knows_what_a_server_gives(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(repository)
    good_file = run_file(api_key_env=None, tokenizer="org/name")
    assert check_run(parse_run_text(good_file), registry=get_registry()).config.name == "x"
    with pytest.raises(ConfigError, match=r"threshold needs sampled targets, but the teacher .*openai gives exact"):
        check_run(parse_run_text(good_file.replace("method: topk", "method: threshold")), registry=get_registry())
    with pytest.raises(ConfigError, match=r"answers at \[1.0\], not at \[2.0\]"):
        check_run(parse_run_text(good_file.replace("k: 5", "k: 5, temperatures: [1.0, 2.0]")), registry=get_registry())


def test_what_the_teacher_says_without_a_tokenizer(tmp_path: Path) -> None:
    one = teacher("http://127.0.0.1:9/v1", tmp_path)
    with pytest.raises(SignalError, match=r"has no tokenizer: .*Set `tokenizer`"):
        one.vocabulary()
    with pytest.raises(SignalError, match="lists at most 20"):
        answer_of(one, ASK, GenerationParameters(top_logprobs=21))
    turns = [GenerationRequest("c", messages=({"role": "user", "content": "x"},))]
    with pytest.raises(SignalError, match="endpoint: completions takes text and there is no chat template"):
        answer_of(teacher("http://127.0.0.1:9/v1", tmp_path, endpoint="completions"), turns)
    with FakeServer() as server, pytest.raises(SignalError, match="without the log-probabilities that were asked for"):
        answer_of(teacher(server.url, tmp_path), ASK, GenerationParameters(max_new_tokens=20, top_logprobs=2))


def test_a_budget_in_money(tmp_path: Path) -> None:
    """No more is spent than max_cost; a higher budget goes on from what was paid."""
    requests = [GenerationRequest(f"q{i}", prompt=f"question {i}") for i in range(50)]
    prices = {"prompt_price": 100.0, "completion_price": 400.0, "template_tokens": 0}

    def billed() -> float:
        return (server.prompt_tokens * 100 + server.written_tokens * 400) / 1e6

    with FakeServer() as server:
        with pytest.raises(
            BudgetSpent, match=r"max_cost: 0.1 \(spent 0.0\d+, next up to 0.0\d+\).*Raise it and run again"
        ):
            answer_of(teacher(server.url, tmp_path, max_cost=0.1, **prices), requests)
        assert 0.08 < billed() <= 0.1
        asked = sum(server.served.values())
        assert 5 < asked < 50
        found = answer_of(teacher(server.url, tmp_path, max_cost=10, **prices), requests)
        assert sum(a.cached for a in found) == asked
        assert sum(server.served.values()) == 50


def test_damaged_answers_are_asked_for_again(tmp_path: Path) -> None:
    with FakeServer() as server:
        one = teacher(server.url, tmp_path)
        answer_of(one)
        path = account_path(one.options)
        with sqlite3.connect(path) as database:
            database.execute("UPDATE answers SET content = zeroblob(20)")
        database.close()
        (answer,) = answer_of(teacher(server.url, tmp_path))
        assert (answer.text, answer.cached) == (answer_to("a question"), False)
    path.write_bytes(b"this is no database" * 100)
    with pytest.raises(DistillError, match="cannot be opened"):
        answer_of(teacher(server.url, tmp_path))


def test_an_attempt_under_way_counts_in_full(tmp_path: Path) -> None:
    """A process that was killed may have been charged for what it had sent."""
    prices = Prices(prompt=1.0, completion=2.0, max_tokens=100)
    first = Account(tmp_path / "a.sqlite", prices)
    kept = first.reserve("kept", prompt_tokens=20, completion_tokens=30)
    first.reserve("lost", prompt_tokens=10, completion_tokens=20)
    first.settle(kept, Answer(b"{}", 5, 6, prices.cost(5, 6)))
    free = first.reserve("free", prompt_tokens=10, completion_tokens=10)
    first.fail(free, charged=False)
    first.close()
    second = Account(tmp_path / "a.sqlite", prices)
    assert second.spent == (11 + 30, pytest.approx((5 + 12 + 10 + 40) * 1e-6))
    with pytest.raises(BudgetSpent, match=r"spent 41, next up to 60"):
        second.reserve("more", prompt_tokens=30, completion_tokens=30)
    second.close()


def test_a_full_disk_ends_the_run_with_a_sentence(tmp_path: Path) -> None:
    """SQLite's own page limit stands for the disk's. Nobody waits for an attempt that could not be settled."""
    account = Account(tmp_path / "a.sqlite", Prices(max_tokens=100))
    kept = account.reserve("kept", prompt_tokens=10, completion_tokens=10)
    lost = account.reserve("lost", prompt_tokens=30, completion_tokens=40)
    account.settle(kept, Answer(b"{}", 1, 1, 0))
    account._database.execute("PRAGMA max_page_count = 1")
    with pytest.raises(DistillError, match=r"a.sqlite cannot be written \(database or disk is full\).*run again"):
        account.settle(lost, Answer(os.urandom(100_000), 1, 1, 0))
    with pytest.raises(BudgetSpent, match="spent 72"):
        account.reserve("more", prompt_tokens=30, completion_tokens=0)
    assert account.find("kept") is not None
    account.close()


def test_answers_of_other_forms_are_unreadable() -> None:
    fine = {"choices": [{"text": "x", "logprobs": None}]}
    assert read_answer(fine).text == "x"
    for changes in (
        {"choices": [{"text": 3}]},
        {"choices": [{"text": "x"}, {"text": "y"}]},
        {"choices": [{"text": "x", "logprobs": {"tokens": ["a"], "token_logprobs": [0.5], "top_logprobs": [None]}}]},
        {
            "choices": [
                {"text": "x", "logprobs": {"tokens": ["a", "b"], "token_logprobs": [-1.0], "top_logprobs": [None]}}
            ]
        },
        {"choices": [{"text": "x"}], "usage": {"prompt_tokens": "3"}},
    ):
        with pytest.raises(Unreadable):
            read_answer(changes)
    assert words({"prompt": "x", "max_tokens": 3})[0]["text"] == answer_to("x")
