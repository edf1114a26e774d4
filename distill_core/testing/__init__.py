"""The conformance kit for plugin authors: one suite per kind, run by pytest or by ``distill plugins check``.

>>> from distill_core.testing import conformance_cases
>>> conformance_cases("no-such-plugin")
Traceback (most recent call last):
...
distill_core.errors.PluginError: no plugin or distribution called 'no-such-plugin' is installed; ...

In a plugin's own tests, with the pytest plugin that comes with distill-core::

    @pytest.mark.distill_plugin("distill-hello")
    def test_conformance(conformance_case):
        conformance_case.run()
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from distill_core.testing.cases import Case, Result, check_plugin, conformance_cases
    from distill_core.testing.subject import NotApplicable, Subject

# Lazy: pytest imports this package in every session of an environment where distill-core is installed.
_LAZY = {
    "Case": "cases",
    "NotApplicable": "subject",
    "Result": "cases",
    "Subject": "subject",
    "check_plugin": "cases",
    "conformance_cases": "cases",
}

__all__ = ["Case", "NotApplicable", "Result", "Subject", "check_plugin", "conformance_cases"]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"distill_core.testing.{_LAZY[name]}"), name)
