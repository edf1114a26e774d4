"""distill-core: knowledge distillation and dataset distillation of language models.

Importing the package costs milliseconds; ``distill_core.ops`` (which needs torch alone) is imported at first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from distill_core import ops as ops
    from distill_core.plugin import hookimpl as hookimpl
    from distill_core.registry import register as register
    from distill_core.simplex import divergence as divergence

_LAZY = {
    "ops": ("distill_core.ops", None),
    "divergence": ("distill_core.simplex", "divergence"),
    "hookimpl": ("distill_core.plugin", "hookimpl"),
    "register": ("distill_core.registry", "register"),
}

__all__ = ["__version__", *_LAZY]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module_name, attribute = _LAZY[name]
    module = import_module(module_name)
    return module if attribute is None else getattr(module, attribute)
