"""Which side of the split a question is on: decided by its text, so that no question can be on both."""

from __future__ import annotations

import hashlib

HELD_OUT_OF = 5
"""One question in so many is held out."""


def is_held_out(question: str) -> bool:
    """By a hash of the text, the same on every machine; true for one question in five.

    >>> sum(is_held_out(f"What is {n} + 1?") for n in range(1000))
    191
    """
    digest = hashlib.blake2b(question.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") % HELD_OUT_OF == 0
