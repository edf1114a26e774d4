"""The compiled CPU kernels: `distill_core/_C`, loaded at first use.

Python owns the schemas of the raw kernels, `torch.ops.distill_core_cpu.*`; the library adds their implementations
through the libtorch stable ABI. They check no values and are called by the registered ops alone.
"""

from __future__ import annotations

from pathlib import Path

import torch

from .dispatch import asked_once
from .native_build import why_not_built

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
"""What the kernels take; fp64 stays with the reference."""

_PACKAGE = Path(__file__).resolve().parent.parent
_schemas = torch.library.Library("distill_core_cpu", "DEF")  # type: ignore[no-untyped-call]


def define(*schemas: str) -> None:
    """Declare raw kernels, as `name(Tensor x, ...) -> Tensor`."""
    for schema in schemas:
        _schemas.define(schema)  # type: ignore[no-untyped-call]


@asked_once
def available() -> tuple[bool, str]:
    """Whether the library could be loaded, and why (not): the probe of every CPU kernel."""
    files = sorted(_PACKAGE.glob("_C.*so"))
    if not files:
        return False, why_not_built("cpu") or "distill_core._C is not there: reinstall distill-core with a C++ compiler"
    try:
        torch.ops.load_library(str(files[0]))  # type: ignore[no-untyped-call]
    except OSError as error:
        return False, f"{files[0].name} could not be loaded: {error}"
    return True, "compiled C++, loaded"


define("widen(Tensor from, Tensor(a!) into) -> ()")
