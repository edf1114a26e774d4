"""Sums over the processes of a training, for state that all of them must share."""

from __future__ import annotations

from collections.abc import Sequence

import torch


def summed(values: Sequence[float], device: torch.device) -> list[float]:
    """Element-wise sum over all processes; the values themselves where there is one.

    >>> summed([1.0, 2.5], torch.device("cpu"))
    [1.0, 2.5]
    """
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return list(values)
    total = torch.tensor(values, dtype=torch.float64, device=device)
    torch.distributed.all_reduce(total)
    result: list[float] = total.tolist()
    return result
