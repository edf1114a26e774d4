"""One attempt at one request over HTTP: a whole answer in time, or a failure with a name."""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import httpx

from distill_teachers.openai_options import OpenAIOptions
from distill_teachers.server.failures import ServerRefused, Transient
from distill_teachers.server.pacing import Pacer, exhausted_s, retry_after_s
from distill_teachers.server.secret import ApiKey

MAX_ANSWER_BYTES = 256 * 2**20
CONNECT_TIMEOUT_S = 10.0
REMEMBERED_ANSWERS = 10_000
"""Answers of which the digest is remembered, the latest."""

UNAVAILABLE = (408, 409, 425)
QUOTA = ("insufficient_quota", "billing_hard_limit_reached")


@dataclass(frozen=True)
class Reply:
    """A whole answer: the JSON object, and the bytes it came as with the key taken out."""

    body: dict[str, Any]
    content: bytes


class Connection:
    """Sends requests; may be shared by threads.

    An answer is refused (and asked for again) if it is not whole, not in time, or somebody else's: servers and proxies
    that echo ``X-Request-Id`` are held to it, and an answer to one question is not taken for another's.

    Args:
        options: address, timeout.
        key: sent with every request, shown nowhere.
        pacer: kept by all requests.
    """

    def __init__(self, options: OpenAIOptions, key: ApiKey, pacer: Pacer) -> None:
        self.options = options
        self._key = key
        self._pacer = pacer
        self._guard = threading.Lock()
        self._mark = f"{uuid.uuid4()}"[:8]
        self._taken: dict[bytes, bytes] = {}
        timeout_s = options.timeout_s
        self._client = httpx.Client(
            timeout=httpx.Timeout(timeout_s, connect=min(CONNECT_TIMEOUT_S, timeout_s), pool=None),
            limits=httpx.Limits(max_connections=options.concurrency, max_keepalive_connections=options.concurrency),
            trust_env=not options.is_local,
            follow_redirects=False,
        )

    def close(self) -> None:
        self._client.close()

    def post(self, path: str, payload: Mapping[str, Any]) -> Reply:
        """Send one request.

        Args:
            path: after the base address, e.g. ``/completions``.
            payload: JSON.

        Raises:
            Transient: worth another attempt.
            ServerRefused: not worth one.
        """
        self._pacer.wait()
        request_id = self._mark + f"{uuid.uuid4()}"[8:]
        try:
            status, headers, content = self._exchange(path, payload, request_id)
        except httpx.ConnectError as error:
            raise Transient(f"no connection to {self.options.address}: {self._key.scrub(str(error))}") from None
        except httpx.TimeoutException as error:
            late = type(error) is not httpx.ConnectTimeout
            raise Transient(f"no answer within {self.options.timeout_s:g} s", charged=late) from None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise Transient(f"the connection broke: {self._key.scrub(str(error))}", charged=True) from None
        self._pacer.pause(min(exhausted_s(headers), self.options.max_wait_s))
        if status != 200:
            self._refuse(status, headers, content)
        return self._checked(headers, content, request_id, path + json.dumps(payload, sort_keys=True))

    def _exchange(self, path: str, payload: Mapping[str, Any], request_id: str) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body; the deadline holds for the whole of it, however slowly it drips."""
        deadline_s = time.monotonic() + self.options.timeout_s
        headers = {"X-Request-Id": request_id, "Content-Type": "application/json", **self._key.headers()}
        parts: list[bytes] = []
        size = 0
        url = self.options.base_url + path
        with self._client.stream("POST", url, content=json.dumps(payload).encode(), headers=headers) as response:
            for part in response.iter_bytes():
                parts.append(part)
                size += len(part)
                if time.monotonic() > deadline_s:
                    raise Transient(f"the answer was not whole after {self.options.timeout_s:g} s", charged=True)
                if size > MAX_ANSWER_BYTES:
                    raise ServerRefused(
                        f"an answer of {self.options.address} is larger than {MAX_ANSWER_BYTES} bytes", charged=True
                    )
            return response.status_code, {k.lower(): v for k, v in response.headers.items()}, b"".join(parts)

    def _refuse(self, status: int, headers: Mapping[str, str], content: bytes) -> None:
        said = self._key.scrub(_error_text(content))
        wait_s = retry_after_s(headers) or 0.0
        if status == 429 and any(word in said for word in QUOTA):
            raise ServerRefused(f"the account at {self.options.address} has no quota left: {said}")
        if status == 429 or status in UNAVAILABLE or status >= 500:
            if wait_s > self.options.max_wait_s:
                raise ServerRefused(
                    f"{self.options.address} answers {status} and asks to wait {wait_s:g} s, longer than max_wait_s: "
                    f"{self.options.max_wait_s:g}; run again later (answers so far are kept), or raise max_wait_s"
                )
            self._pacer.pause(wait_s if status == 429 else 0.0)
            # A gateway may fail after the server did its work; 429 and 503 say that nothing was done.
            raise Transient(
                f"HTTP {status}: {said}", retry_after_s=wait_s, charged=status not in (429, 503, *UNAVAILABLE)
            )
        if status in (401, 403):
            name = self.options.api_key_env
            source = f"the key in {name}" if name else "requests without a key (api_key_env: null)"
            raise ServerRefused(f"{self.options.address} refuses {source}: HTTP {status}: {said}")
        raise ServerRefused(
            f"{self.options.address} refuses the request for model {self.options.model!r}: HTTP {status}: {said}"
        )

    def _checked(self, headers: Mapping[str, str], content: bytes, request_id: str, question: str) -> Reply:
        try:
            text = self._key.scrub(content.decode("utf-8"))
            body = json.loads(text)
        except ValueError:
            raise Transient(f"the answer ({len(content)} bytes) is no whole JSON", charged=True) from None
        if not isinstance(body, dict):
            raise Transient(f"the answer is a JSON {type(body).__name__}, expected an object", charged=True)
        digest, asked = sha256(content).digest(), sha256(question.encode()).digest()
        echoed = headers.get("x-request-id", request_id)
        with self._guard:
            foreign = echoed != request_id and echoed.startswith(self._mark)
            taken = self._taken.get(digest) if body.get("id") else None
            foreign = foreign or (taken is not None and taken != asked)
            if not foreign:
                self._taken[digest] = asked
                if len(self._taken) > REMEMBERED_ANSWERS:
                    del self._taken[next(iter(self._taken))]
        if foreign:
            raise Transient("the answer belongs to another request", charged=True)
        return Reply(body, text.encode("utf-8"))


def _error_text(content: bytes) -> str:
    """What an error answer says, short."""
    text = content[:2000].decode("utf-8", errors="replace")
    try:
        error = json.loads(content)["error"]
        text = str(error.get("message", error)) if isinstance(error, dict) else str(error)
        if isinstance(error, dict) and error.get("code"):
            text += f" ({error['code']})"
    except (ValueError, KeyError, TypeError):
        pass
    return " ".join(text.split())[:500] or "no explanation"
