"""What can go wrong with one attempt, and whether it may have been charged for."""

from __future__ import annotations

from distill_core.errors import SignalError


class Transient(Exception):
    """This attempt failed, another may not.

    Args:
        message: what happened, without the key.
        retry_after_s: the least wait that the server asked for.
        charged: whether the server may have done the work (and counts it).
    """

    def __init__(self, message: str, *, retry_after_s: float = 0.0, charged: bool = False) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
        self.charged = charged


class ServerRefused(SignalError):
    """The server will not answer this request, however often it is sent."""

    def __init__(self, message: str, *, charged: bool = False) -> None:
        super().__init__(message)
        self.charged = charged


class BudgetSpent(SignalError):
    """The next request might exceed ``max_cost`` or ``max_tokens``."""
