"""Whether Triton kernels can run here. Reads no kernel and imports no triton, so that `import distill_core` stays fast.

On CUDA (and ROCm) tensors the kernels are compiled at first use. With `TRITON_INTERPRET=1` in the environment before
the first kernel is imported they also run on CPU tensors, statement by statement in Triton's interpreter: for tests,
and only when `impl="triton"` is asked for.
"""

from __future__ import annotations

import importlib.util
import os
from contextlib import AbstractContextManager, nullcontext

import torch

from .dispatch import offer

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
"""What the kernels take; fp64 stays with the reference."""

MAX_K = 256
"""Entries per row that the top-k and sampling kernels can sort in one program."""

MAX_SUPPORT = 4096
"""Support entries per row whose divergence one program of `sparse_kl` can hold."""


def interpreted() -> bool:
    """Whether the interpreter was asked for."""
    return os.environ.get("TRITON_INTERPRET", "0") == "1"


def available() -> tuple[bool, str]:
    """Whether the kernels can run, and why (not): the probe of every Triton kernel."""
    if importlib.util.find_spec("triton") is None:
        return False, "triton is not installed: pip install 'distill-core[triton]'"
    if interpreted():
        return True, "triton's interpreter (TRITON_INTERPRET=1), on CPU tensors when asked for by name"
    if not torch.cuda.is_available():
        return False, "triton is installed, but torch sees no GPU"
    return True, "triton, compiled at first use"


def offer_kernels(*ops: str) -> None:
    """Offer Triton kernels of these ops, on CUDA tensors and, by name alone, on CPU tensors in the interpreter."""
    on_request = ("cpu",) if interpreted() else ()
    for op in ops:
        offer(op, "triton", available, on_request=on_request, dtypes=DTYPES)


def device_of(x: torch.Tensor) -> AbstractContextManager[object]:
    """Makes the GPU of `x` the current one: Triton launches there."""
    return torch.cuda.device(x.device) if x.is_cuda else nullcontext()


def too_many(k: int) -> dict[str, str]:
    """What `select(..., unfit=...)` is told of a call that keeps k entries per row."""
    return {"triton": f"the triton kernel keeps at most {MAX_K} entries per row; got k = {k}"} if k > MAX_K else {}


def too_wide(support: int) -> dict[str, str]:
    """What `select(..., unfit=...)` is told of a support of so many entries."""
    why = f"the triton kernel takes at most {MAX_SUPPORT} support entries per row; got {support}"
    return {"triton": why} if support > MAX_SUPPORT else {}
