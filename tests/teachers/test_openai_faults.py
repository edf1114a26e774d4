"""1,000 requests through faults: every answer exactly once, spending bounded, resumed after ``kill -9``, no secret."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from distill_core.completions import GenerationParameters
from distill_teachers.openai import OpenAITeacher
from distill_teachers.server.account import Account, Prices
from distill_teachers.server.asking import account_path
from distill_teachers.server.failures import BudgetSpent
from tests.conftest import REPOSITORY
from tests.teachers.faults.ask_harness import KEY_NAME, NEW_TOKENS, options, requests
from tests.teachers.faults.fake_server import FakeServer, answer_to
from tests.teachers.faults.proxy import FAULTS, FaultyProxy

KEY = "sk-fault-injected-9f8e7d6c5b4a"
N = 1000


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_NAME, KEY)


def files_with(secret: str, directory: Path) -> list[str]:
    needle = secret.encode()
    return [str(path) for path in directory.rglob("*") if path.is_file() and needle in path.read_bytes()]


def test_every_answer_once_whatever_happens_on_the_way(tmp_path: Path) -> None:
    with FakeServer(key=KEY) as server, FaultyProxy(server.port, rate=0.25) as proxy:
        teacher = OpenAITeacher(options(proxy.url, str(tmp_path), max_tokens=10**9))
        answers = list(teacher.generate(requests(N), GenerationParameters(max_new_tokens=NEW_TOKENS)))
        billed = server.prompt_tokens + server.written_tokens
        spent, _ = teacher.asker.account.spent
        kept = len(teacher.asker.account)
        teacher.close()
    assert set(proxy.done) >= set(FAULTS), f"faults that never happened: {set(FAULTS) - set(proxy.done)}"
    assert [answer.id for answer in answers] == [request.id for request in requests(N)]
    assert [answer.text for answer in answers] == [answer_to(request.prompt or "") for request in requests(N)]
    assert kept == N
    assert billed <= spent, "the account says less than the server bills"
    assert files_with(KEY, tmp_path) == []
    assert files_with("question number 7 ", tmp_path) == []  # answers are kept, prompts are hashed


def run(url: str, directory: Path, answers: Path, max_tokens: int = 0) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.teachers.faults.ask_harness", url, str(directory / "cache"), str(answers)]
    with (directory / "stderr.txt").open("a") as stderr:
        return subprocess.Popen(
            [*command, str(N), str(max_tokens)],
            cwd=REPOSITORY,
            env={**os.environ, KEY_NAME: KEY},
            stderr=stderr,
            text=True,
        )


@pytest.mark.slow
def test_a_killed_run_goes_on_from_what_was_answered(tmp_path: Path) -> None:
    with FakeServer(key=KEY, delay_s=0.01) as server, FaultyProxy(server.port, rate=0.1, late_s=0.7) as proxy:
        for share in (0.2, 0.6):
            process = run(proxy.url, tmp_path, tmp_path / "killed.jsonl")
            deadline_s = time.monotonic() + 60
            while len(server.served) < share * N and time.monotonic() < deadline_s:
                assert process.poll() is None, (tmp_path / "stderr.txt").read_text()
                time.sleep(0.005)
            os.kill(process.pid, signal.SIGKILL)
            process.wait(10)
        account = Account(account_path(options(proxy.url, str(tmp_path / "cache"), None)), Prices())
        kept = len(account)
        account.close()
        assert 0.5 * N < kept < N
        time.sleep(0.2)  # what the killed process had sent arrives
        before = Counter(server.served)
        process = run(proxy.url, tmp_path, tmp_path / "answers.jsonl")
        assert process.wait(120) == 0, (tmp_path / "stderr.txt").read_text()
        billed = server.prompt_tokens + server.written_tokens
        asked_again = server.served - before
    lines = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert [line["id"] for line in lines] == [request.id for request in requests(N)]
    assert [line["text"] for line in lines] == [answer_to(request.prompt or "") for request in requests(N)]
    assert sum(line["cached"] for line in lines) == kept
    assert len(asked_again) == N - kept, "a kept answer was paid again"
    account = Account(account_path(options(proxy.url, str(tmp_path / "cache"), None)), Prices())
    assert billed <= account.spent[0]
    account.close()
    assert files_with(KEY, tmp_path) == []


@pytest.mark.parametrize("rate", [0.0, 0.4])
def test_the_budget_is_never_exceeded(tmp_path: Path, rate: float) -> None:
    """The server bills no more than the budget, though 16 requests are under way and some are paid in vain."""
    budget = 9_000
    with FakeServer(key=KEY, delay_s=0.02) as server, FaultyProxy(server.port, rate=rate) as proxy:
        teacher = OpenAITeacher(options(proxy.url, str(tmp_path), max_tokens=budget))
        answers = []
        with pytest.raises(BudgetSpent, match=rf"max_tokens: {budget} \(spent \d+, next up to \d+\)") as refused:
            for answer in teacher.generate(requests(N), GenerationParameters(max_new_tokens=NEW_TOKENS)):
                answers.append(answer)
        assert server.most_under_way > 8
        billed = server.prompt_tokens + server.written_tokens
        spent, _ = teacher.asker.account.spent
        kept = len(teacher.asker.account)
        teacher.close()
        most = int(re.findall(r"next up to (\d+)", str(refused.value))[0])  # a byte may be a token, and some are added
        longest = max(len((request.prompt or "").encode()) for request in requests(N))
        assert longest + NEW_TOKENS <= most <= longest + NEW_TOKENS + 32
        assert budget - most < spent <= budget
        assert billed <= spent
        again = OpenAITeacher(options(proxy.url, str(tmp_path), max_tokens=budget))
        with pytest.raises(BudgetSpent):
            list(again.generate(requests(N), GenerationParameters(max_new_tokens=NEW_TOKENS)))
        assert len(again.asker.account) >= kept
        assert server.prompt_tokens + server.written_tokens <= budget
        again.close()
