"""How long to wait: what a server's headers ask for, and a pause that all requests keep."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime

_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_SECONDS = {"ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def duration_s(text: str) -> float | None:
    """Seconds of ``1.5``, ``20ms``, ``6m0s``; None if it is no duration.

    >>> duration_s("6m1.5s"), duration_s("20ms"), duration_s("3"), duration_s("soon")
    (361.5, 0.02, 3.0, None)
    """
    text = text.strip().lower()
    try:
        return max(float(text), 0.0)
    except ValueError:
        pass
    if not text or _PART.sub("", text):
        return None
    return sum(float(number) * _SECONDS[unit] for number, unit in _PART.findall(text))


def retry_after_s(headers: Mapping[str, str], *, now: datetime | None = None) -> float | None:
    """Seconds that ``retry-after-ms`` or ``Retry-After`` (seconds or an HTTP date) ask to wait; None: neither is there.

    >>> retry_after_s({"retry-after": "2"}), retry_after_s({"retry-after-ms": "250"})
    (2.0, 0.25)
    """
    milliseconds = duration_s(headers.get("retry-after-ms", ""))
    if milliseconds is not None:
        return milliseconds / 1000
    text = headers.get("retry-after", "")
    seconds = duration_s(text)
    if seconds is not None:
        return seconds
    try:
        date = parsedate_to_datetime(text)
    except (TypeError, ValueError):
        return None
    if date.tzinfo is None:
        date = date.replace(tzinfo=timezone.utc)
    return max((date - (now or datetime.now(timezone.utc))).total_seconds(), 0.0)


def exhausted_s(headers: Mapping[str, str]) -> float:
    """Seconds until a rate limit that is used up (``x-ratelimit-remaining-*: 0``) is filled again; else 0.

    >>> exhausted_s({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "1s"})
    1.0
    """
    waits = [0.0]
    for kind in ("requests", "tokens"):
        if headers.get(f"x-ratelimit-remaining-{kind}", "").strip() == "0":
            waits.append(duration_s(headers.get(f"x-ratelimit-reset-{kind}", "")) or 0.0)
    return max(waits)


class Pacer:
    """A pause that one answer asks for and every request keeps.

    Args:
        sleep: for tests.
    """

    def __init__(self, sleep: Callable[[float], None] = time.sleep) -> None:
        self._sleep = sleep
        self._guard = threading.Lock()
        self._free_at_s = 0.0

    def pause(self, seconds: float) -> None:
        """No request is sent for so long from now."""
        with self._guard:
            self._free_at_s = max(self._free_at_s, time.monotonic() + seconds)

    def wait(self) -> None:
        """Return when requests may be sent."""
        while True:
            with self._guard:
                left_s = self._free_at_s - time.monotonic()
            if left_s <= 0:
                return
            self._sleep(left_s)
