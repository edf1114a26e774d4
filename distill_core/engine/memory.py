"""How much memory a piece of work needs beyond what was there before it."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def weight_bytes(model: Any) -> int:
    """Bytes of all parameters and buffers of a module in memory, shared ones once."""
    tensors = {id(t): t for t in (*model.parameters(), *model.buffers())}
    return sum(t.numel() * t.element_size() for t in tensors.values())


def peak_bytes(device: torch.device, work: Callable[[], object]) -> int | None:
    """Most memory in use while ``work`` ran, beyond what was in use before; None where it cannot be measured.

    On a GPU: what PyTorch allocated on it. On a CPU under Linux: resident memory of the process, after freed pages were
    given back; to some hundred kilobytes in a fresh process. What other threads do meanwhile counts, and so do pages
    that the C library keeps in a fragmented heap.

    >>> peak_bytes(torch.device("meta"), lambda: None) is None
    True
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        work()
        torch.cuda.synchronize(device)
        return int(torch.cuda.max_memory_allocated(device) - before)
    if device.type != "cpu" or not _CLEAR.exists():
        return None
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError):  # another C library: freed pages stay, so a rise would be missed
        return None
    try:
        trim(0)
        _CLEAR.write_text("5")  # the high-water mark starts anew
        before = _status_bytes("VmRSS")
        work()
        return max(0, _status_bytes("VmHWM") - before)
    except OSError:
        return None


def _status_bytes(name: str) -> int:
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024
