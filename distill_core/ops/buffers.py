"""Buffers as the kernels want them: large ones on huge pages, matrices with contiguous rows.

Large buffers of a pass over the head are uninitialised, on huge pages where the compiled library can ask for them.
Touching a fresh buffer costs about 3 microseconds per 4 KiB page: as much as the arithmetic of a small head.
"""

from __future__ import annotations

import torch
from torch import Tensor

from . import cpu_library

cpu_library.define("advise_huge_pages(Tensor(a!) x) -> ()")


def fresh(shape: tuple[int, ...], dtype: torch.dtype, like: Tensor, impl: str) -> Tensor:
    """An uninitialised, contiguous tensor on the device of `like`."""
    x = torch.empty(shape, dtype=dtype, device=like.device)
    if impl == "cpu":
        torch.ops.distill_core_cpu.advise_huge_pages(x)
    return x


def with_rows(x: Tensor) -> Tensor:
    """A matrix whose rows are contiguous: itself, or a copy where the last dimension has a stride."""
    if x.shape[1] <= 1 or x.stride(1) == 1:
        return x
    # An empty tensor calls itself contiguous whatever its strides: clone, not contiguous().
    return x.clone(memory_format=torch.contiguous_format)
