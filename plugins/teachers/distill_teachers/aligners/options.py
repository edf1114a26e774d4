"""Options of the aligners. No torch import."""

from __future__ import annotations

from pydantic import Field

from distill_core.options import Options


class ByteSpanOptions(Options):
    """Options of ``byte-span``."""

    chunks: bool = Field(
        default=False,
        description="also compare where several student tokens are one teacher token, by the chain rule; another pass "
        "of the teacher over sequences with such tokens",
    )
