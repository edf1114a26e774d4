"""Generation over a server through faults: every row once, `kill -9` again and again, budgets kept, funnels exact."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from distill_synthesis.asking.ledger import Ledger
from distill_teachers.server.account import Account, Prices
from distill_teachers.server.asking import account_path
from tests.conftest import REPOSITORY
from tests.generation.fault_harness import N
from tests.generation.scribe import adds_up
from tests.teachers.faults.ask_harness import KEY_NAME, options
from tests.teachers.faults.fake_server import FakeServer, prompt_of
from tests.teachers.faults.http_server import Json
from tests.teachers.faults.proxy import FaultyProxy

KEY = "sk-generation-test-0123456789ab"
KILLS = 12


def write(payload: Json) -> tuple[Json, int, int]:
    """Mostly a text that depends on the prompt; sometimes nothing, an apology, or the same as others."""
    prompt = prompt_of(payload)
    digest = hashlib.sha256(prompt.encode()).digest()
    text = f"text {digest.hex()[:12]}"
    text = {0: "", 1: "Sorry, I cannot do that.", 2: "The same.", 3: "The same."}.get(digest[0] % 16, text)
    choice: Json = {"index": 0, "finish_reason": "stop", "logprobs": None}
    choice |= {"message": {"role": "assistant", "content": text}}
    return choice, len(prompt.encode()), 1 + digest[1] % int(payload["max_tokens"])


class Harness:
    """A process that forks the runs; importing is paid for once."""

    def __init__(self, cache: Path, log: Path) -> None:
        self.log, self.errors = log, log.open("a")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.generation.fault_harness", str(cache)],
            cwd=REPOSITORY,
            env={**os.environ, KEY_NAME: KEY, "OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
        )

    def start(self, *words: object) -> int:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(" ".join(map(str, words)) + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def status(self) -> int:
        assert self.process.stdout is not None
        return int(self.process.stdout.readline())

    def run(self, *words: object) -> None:
        self.start(*words)
        assert self.status() == 0, self.log.read_text()

    def close(self) -> None:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait(20)
        self.process.stdout.close()
        self.errors.close()


@pytest.fixture
def harness(tmp_path: Path) -> Iterator[Any]:
    started: list[Harness] = []

    def start(cache: str) -> Harness:
        started.append(Harness(tmp_path / cache, tmp_path / "stderr.txt"))
        return started[-1]

    yield start
    for one in started:
        one.close()


def read(path: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    *records, summary = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return records, summary


def billed(server: FakeServer) -> int:
    return server.prompt_tokens + server.written_tokens


def kept_answers(url: str, cache: Path) -> int:
    account = Account(account_path(options(url, str(cache), None)), Prices())
    kept = len(account)
    account.close()
    return kept


def test_every_row_once_though_killed_again_and_again(tmp_path: Path, harness: Any) -> None:
    budget = 900_000
    with FakeServer(write, key=KEY, delay_s=0.01) as server, FaultyProxy(server.port, rate=0.1, late_s=0.7) as proxy:
        killed = harness("killed-cache")
        for kill in range(KILLS):
            before = sum(server.served.values())
            child = killed.start(proxy.url, tmp_path / "killed", tmp_path / f"records-{kill}", budget)
            deadline_s = time.monotonic() + 30
            while sum(server.served.values()) < before + 5 and time.monotonic() < deadline_s:
                time.sleep(0.002)
            os.kill(child, signal.SIGKILL)
            assert killed.status() == signal.SIGKILL, f"run {kill} had ended: {(tmp_path / 'stderr.txt').read_text()}"
            time.sleep(0.05)  # what it had sent arrives
            assert billed(server) <= Ledger(tmp_path / "killed").spent.tokens <= budget
        time.sleep(0.8)
        kept = kept_answers(proxy.url, tmp_path / "killed-cache")
        before_last = len(server.payloads)
        killed.run(proxy.url, tmp_path / "killed", tmp_path / "records", budget)
        assert billed(server) <= Ledger(tmp_path / "killed").spent.tokens <= budget
        asked = [json.dumps(payload, sort_keys=True) for payload in server.payloads]
        whole = harness("whole-cache")
        whole.run(proxy.url, tmp_path / "whole", tmp_path / "whole-records", 0)
    records, summary = read(tmp_path / "records")
    expected, uninterrupted = read(tmp_path / "whole-records")
    assert records == expected
    assert summary["funnel"] == uninterrupted["funnel"]
    adds_up(summary["funnel"], len(records))
    reasons = {step["step"]: step["reasons"] for step in summary["funnel"]}
    assert reasons["evolution"] and reasons["answers"] and reasons["elimination"] and reasons["exact-dedup"], reasons
    documents = [record["document"] for record in records]
    assert len(documents) == len(set(documents)) > N
    lines = [json.loads(line) for line in (tmp_path / "killed" / "completions.jsonl").read_text().splitlines()]
    wanted = sum(step["out"] for step in summary["funnel"] if step["step"] in ("evolution asked", "answers asked"))
    assert len({line["key"] for line in lines}) == len(lines) == wanted, "an answer was taken in twice, or lost"
    fresh = len(set(asked)) - kept
    assert 0 < fresh == len(set(asked[before_last:])), "an answer that was kept was paid again"
    assert (tmp_path / "killed" / "dropped.jsonl").read_bytes() == (tmp_path / "whole" / "dropped.jsonl").read_bytes()


@pytest.mark.parametrize("rate", [0.0, 0.4])
def test_a_budget_of_tokens_is_never_exceeded(tmp_path: Path, harness: Any, rate: float) -> None:
    """Sixteen requests are under way, some are paid in vain, and the run is killed once in between."""
    budget = 30_000
    with FakeServer(write, key=KEY, delay_s=0.05) as server, FaultyProxy(server.port, rate=rate, late_s=0.7) as proxy:
        runs = harness("cache")
        child = runs.start(proxy.url, tmp_path / "a", tmp_path / "killed", budget)
        while sum(server.served.values()) < 20:
            time.sleep(0.002)
        os.kill(child, signal.SIGKILL)
        runs.status()
        time.sleep(0.8)
        for _ in range(2):  # spent, and spent again: nothing more is asked
            runs.run(proxy.url, tmp_path / "a", tmp_path / "records", budget)
            assert billed(server) <= Ledger(tmp_path / "a").spent.tokens <= budget
        assert server.most_under_way > 8
        whole = harness("whole-cache")
        whole.run(proxy.url, tmp_path / "whole", tmp_path / "whole-records", 0)
    records, summary = read(tmp_path / "records")
    expected, _ = read(tmp_path / "whole-records")
    by_name = {record["document"]: record for record in expected}
    assert 0 < len(records) < len(expected)
    assert all(record["document"] in by_name for record in records)
    adds_up(summary["funnel"], len(records))
    assert any("the budget of tokens or money is spent" in step["reasons"] for step in summary["funnel"])


def test_the_same_budget_buys_the_same_rows(tmp_path: Path, harness: Any) -> None:
    """What is admitted depends on the order of the requests, not on which of sixteen comes back first."""
    with FakeServer(write, key=KEY, delay_s=0.005) as server:
        found = []
        for name in ("a", "b"):
            one = harness(f"cache-{name}")
            one.run(server.url, tmp_path / name, tmp_path / f"records-{name}", 9_000)
            found.append(read(tmp_path / f"records-{name}"))
    assert found[0] == found[1] and found[0][0]
