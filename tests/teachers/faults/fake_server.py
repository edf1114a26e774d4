"""A fake OpenAI-compatible server without a model: the same request gets the same words, and every token is billed."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
import threading
from collections import Counter
from collections.abc import Callable

from tests.teachers.faults.http_server import Broken, HTTPServer, Json, Request, response

Choice = Callable[[Json], tuple[Json, int, int]]
"""From a payload: the choice, prompt tokens and written tokens."""


def answer_to(prompt: str) -> str:
    """What the fake server writes for a prompt."""
    return "answer " + hashlib.sha256(prompt.encode()).hexdigest()[:16]


def prompt_of(payload: Json) -> str:
    return str(payload["prompt"] if "prompt" in payload else payload["messages"][-1]["content"])


def words(payload: Json) -> tuple[Json, int, int]:
    """A text that depends on the prompt alone; its length in tokens too."""
    prompt = prompt_of(payload)
    text = answer_to(prompt)
    written = 1 + int(hashlib.sha256(prompt.encode()).hexdigest(), 16) % int(payload["max_tokens"])
    choice: Json = {"index": 0, "finish_reason": "stop", "logprobs": None}
    choice |= {"text": text} if "prompt" in payload else {"message": {"role": "assistant", "content": text}}
    return choice, len(prompt.encode()), written


class FakeServer:
    """Context manager; ``url`` is what a client is given.

    Args:
        choice: makes the answers.
        key: the key that requests must carry, or None.
        delay_s: before every answer.
        echo_id: whether answers carry the request's ``X-Request-Id``.
    """

    def __init__(
        self, choice: Choice = words, *, key: str | None = None, delay_s: float = 0.0, echo_id: bool = True
    ) -> None:
        self.choice, self.key, self.delay_s, self.echo_id = choice, key, delay_s, echo_id
        self.served: Counter[str] = Counter()
        self.prompt_tokens = self.written_tokens = 0
        self.payloads: list[Json] = []
        self.under_way = self.most_under_way = 0
        self._number = itertools.count()
        self._guard = threading.Lock()
        self._http = HTTPServer(self._handle)

    def __enter__(self) -> FakeServer:
        self._http.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.__exit__()

    @property
    def url(self) -> str:
        return self._http.url

    @property
    def port(self) -> int:
        return self._http.port

    async def _handle(self, request: Request, writer: asyncio.StreamWriter) -> None:
        sent = request.headers.get("authorization", "")
        if self.key is not None and sent != f"Bearer {self.key}":
            error = {"error": {"message": f"Incorrect API key provided: {sent}", "code": "invalid_api_key"}}
            writer.write(response(json.dumps(error).encode(), status=401))
            return
        if request.path not in ("/v1/chat/completions", "/v1/completions"):
            raise Broken
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        if self.delay_s:
            await asyncio.sleep(self.delay_s)
        self.under_way -= 1
        payload = json.loads(request.body)
        try:
            choice, prompt_tokens, written = self.choice(payload)
        except ValueError as error:
            writer.write(response(json.dumps({"error": {"message": str(error)}}).encode(), status=400))
            return
        with self._guard:
            self.served[prompt_of(payload)] += 1
            self.prompt_tokens += prompt_tokens
            self.written_tokens += written
            self.payloads.append(payload)
        body = {
            "id": f"cmpl-{next(self._number)}",
            "model": payload["model"],
            "choices": [choice],
            "usage": {"prompt_tokens": prompt_tokens, "completion_tokens": written},
        }
        headers = {"x-request-id": request.headers.get("x-request-id", "")} if self.echo_id else {}
        writer.write(response(json.dumps(body).encode(), headers=headers))
