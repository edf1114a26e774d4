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
