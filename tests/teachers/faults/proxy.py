"""A proxy that does to requests and answers what networks, gateways and busy servers do.

The fault of an attempt is drawn from a seed, the request's content and the number of times it came, so a run can be
repeated and every request gets through in the end.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import re
import threading
from collections import Counter
from collections.abc import Sequence

from tests.teachers.faults.http_server import Broken, HTTPServer, Request, read_response, response

FAULTS = (
    "refused",  # the connection closes before the server hears of it
    "late",  # answered after the client's patience
    "lost",  # the server does its work, the connection breaks
    "busy",  # 429 with Retry-After
    "limited",  # 429, and x-ratelimit headers say when there is room again
    "down",  # 500 before the server hears of it
    "gateway",  # 502 after the server did its work
    "cut",  # fewer bytes than announced
    "half",  # half of the JSON, announced as whole
    "drip",  # a byte at a time, each within the read timeout
    "twice",  # the answer comes twice on the connection
    "stale",  # an earlier answer, to another request, comes again
    "swapped",  # two requests get each other's answers
    "slow",  # no fault: later than those behind it
)


class FaultyProxy:
    """Context manager between a client and an upstream server on this machine.

    Args:
        upstream_port: of the server.
        rate: share of attempts with a fault.
        seed: of the faults.
        faults: which of :data:`FAULTS`.
        late_s: how long a late answer, or a dripping one, takes; more than the client's timeout.
    """

    def __init__(
        self, upstream_port: int, *, rate: float, seed: int = 0, faults: Sequence[str] = FAULTS, late_s: float = 1.0
    ) -> None:
        unknown = set(faults) - set(FAULTS)
        assert not unknown, f"no such faults: {unknown}"
        self.upstream_port, self.rate, self.seed, self.late_s = upstream_port, rate, seed, late_s
        self.faults = tuple(faults)
        self.done: Counter[str] = Counter()
        self._came: Counter[bytes] = Counter()
        self._last: tuple[bytes, bytes] | None = None
        self._partner: tuple[asyncio.Future[bytes], bytes] | None = None
        self._guard = threading.Lock()
        self._http = HTTPServer(self._handle)

    def __enter__(self) -> FaultyProxy:
        self._http.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.__exit__()

    @property
    def url(self) -> str:
        return self._http.url

    def _fault(self, request: Request) -> str:
        with self._guard:
            self._came[request.body] += 1
            came = self._came[request.body]
        digest = hashlib.sha256(f"{self.seed}:{came}:".encode() + request.body).digest()
        draw = random.Random(digest)
        return draw.choice(self.faults) if draw.random() < self.rate else "none"

    async def _handle(self, request: Request, writer: asyncio.StreamWriter) -> None:
        fault = self._fault(request)
        self.done[fault] += 1
        if fault == "refused":
            raise Broken
        if fault == "busy":
            writer.write(response(b"{}", status=429, headers={"retry-after-ms": "20"}))
            return
        if fault == "limited":
            limits = {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "15ms"}
            writer.write(response(b"{}", status=429, headers=limits))
            return
        if fault == "down":
            writer.write(response(b'{"error": {"message": "overloaded"}}', status=500))
            return
        head, body = await self._forward(request)
        await getattr(self, f"_{fault}", self._pass_on)(head, body, writer)
        self._last = (head, body)

    async def _forward(self, request: Request) -> tuple[bytes, bytes]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.upstream_port)
        kept = {name: value for name, value in request.headers.items() if name not in ("host", "connection")}
        lines = [f"POST {request.path} HTTP/1.1", "host: fake", *(f"{name}: {value}" for name, value in kept.items())]
        writer.write("\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + request.body)
        try:
            return await read_response(reader)
        finally:
            writer.close()

    async def _pass_on(self, head: bytes, body: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(head + body)

    async def _slow(self, head: bytes, body: bytes, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.05)
        writer.write(head + body)

    async def _late(self, head: bytes, body: bytes, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(self.late_s)
        writer.write(head + body)

    async def _lost(self, head: bytes, body: bytes, writer: asyncio.StreamWriter) -> None:
        raise Broken

    async def _gateway(self, head: bytes, body: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(response(b"<html>Bad Gateway</html>", status=502))

    async def _cut(self, head: bytes, body: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(head + body[: len(body) // 2])
        await writer.drain()
        raise Broken

    async def _half(self, head: bytes, body: bytes, writer: asyncio.StreamWriter) -> None:
        part = body[: len(body) // 2]
        writer.write(re.sub(rb"content-length: \d+", b"content-length: %d" % len(part), head) + part)

    async def _drip(self, head: bytes, body: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(head)
        for byte in body:
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(self.late_s / len(body))

    async def _twice(self, head: bytes, body: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write((head + body) * 2)

    async def _stale(self, head: bytes, body: bytes, writer: asyncio.StreamWriter) -> None:
        last = self._last
        writer.write(head + body if last is None else last[0] + last[1])

    async def _swapped(self, head: bytes, body: bytes, writer: asyncio.StreamWriter) -> None:
        """Waits a little for a second request with the same fate, then both get the other's answer."""
        mine = head + body
        if self._partner is not None:
            future, theirs = self._partner
            self._partner = None
            future.set_result(mine)
            writer.write(theirs)
            return
        future = asyncio.get_running_loop().create_future()
        self._partner = (future, mine)
        try:
            writer.write(await asyncio.wait_for(future, self.late_s / 4))
        except TimeoutError:
            if self._partner is not None and self._partner[0] is future:
                self._partner = None
            writer.write(mine)
