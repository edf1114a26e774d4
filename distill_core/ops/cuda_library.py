"""The compiled CUDA kernels: `distill_core/_CU`, loaded at first use.

Python owns the schemas of the raw kernels, `torch.ops.distill_core_cuda.*`; the library adds their implementations
through the libtorch stable ABI. They check no values and are called by the registered ops alone.
"""

from __future__ import annotations

import ctypes
from pathlib import Path

import torch

from .dispatch import asked_once
from .native_build import why_not_built

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
"""What the kernels take; fp64 stays with the reference."""

MAX_K = 1024
"""Entries per row that the kernels can keep (csrc/cuda/launchers.h)."""

OLDEST_CAPABILITY = (8, 0)
"""Compute capability the kernels are compiled for, and any later one by PTX."""

_PACKAGE = Path(__file__).resolve().parent.parent
_schemas = torch.library.Library("distill_core_cuda", "DEF")  # type: ignore[no-untyped-call]


def define(*schemas: str) -> None:
    """Declare raw kernels, as `name(Tensor x, ...) -> Tensor`."""
    for schema in schemas:
        _schemas.define(schema)  # type: ignore[no-untyped-call]


@asked_once
def available() -> tuple[bool, str]:
    """Whether the kernels can run here, and why (not): the probe of every CUDA kernel."""
    files = sorted(_PACKAGE.glob("_CU.*so"))
    if not files:
        return False, why_not_built("cuda") or "distill_core._CU is not there: reinstall distill-core with nvcc"
    try:
        torch.ops.load_library(str(files[0]))  # type: ignore[no-untyped-call]
        library = ctypes.CDLL(str(files[0]))
    except OSError as error:
        return False, f"{files[0].name} could not be loaded: {error}"
    library.distill_error_text.restype = ctypes.c_char_p
    return _usable(library)


def _usable(library: ctypes.CDLL) -> tuple[bool, str]:
    version = library.distill_cuda_version()
    name = f"distill_core._CU, compiled with CUDA {version // 1000}.{version % 1000 // 10}, is loaded"
    devices = library.distill_device_count()
    if devices < 0:
        said = library.distill_error_text(-devices).decode()
        return False, f"{name}, but there is no NVIDIA driver it could use ({said})"
    if devices == 0:
        return False, f"{name}, but there is no CUDA device"
    if not torch.cuda.is_available():
        return False, f"{name}, but the installed torch cannot use CUDA (torch.version.cuda is {torch.version.cuda})"
    capability = torch.cuda.get_device_capability()
    if capability < OLDEST_CAPABILITY:
        return False, f"{name}, but the device has compute capability {capability}, below {OLDEST_CAPABILITY}"
    return True, f"{name}; {devices} CUDA device{'s' if devices > 1 else ''}"


def too_many(k: int) -> dict[str, str]:
    """What `select(..., unfit=...)` is told of a call that keeps k entries per row."""
    return {"cuda": f"the cuda kernel keeps at most {MAX_K} entries per row; got k = {k}"} if k > MAX_K else {}
