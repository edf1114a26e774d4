"""Which checks of the conformance kit an object fails."""

from __future__ import annotations

from typing import Any

from distill_core.registry import Registry
from distill_core.testing import check_plugin


def failed(kind: str, value: Any, **keywords: Any) -> set[str]:
    """Names of the checks that fail for an object."""
    registry = Registry()
    registry.register(kind, "subject", value, summary="a subject", **keywords)
    results = check_plugin("session", registry=registry)
    assert any(result.status == "passed" for result in results)
    return {result.check for result in results if result.status == "failed"}
