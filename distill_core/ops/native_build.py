"""What the installation said about the native extensions: which were built, and why others were not."""

from __future__ import annotations

import json
from pathlib import Path

RECORD = Path(__file__).resolve().parent.parent / "native_build.json"
EXTENSION_OF = {"cpu": "distill_core._C", "cuda": "distill_core._CU"}


def why_not_built(impl: str, record: Path = RECORD) -> str | None:
    """The reason recorded by the installation for an implementation's extension; None if it was built or is unknown.

    >>> why_not_built("triton") is None
    True
    """
    name = EXTENSION_OF.get(impl)
    if name is None or not record.is_file():
        return None
    entry = json.loads(record.read_text(encoding="utf-8")).get(name, {})
    return None if entry.get("built", True) else f"{name} was not built: {entry['reason']}"
