"""``metrics.jsonl``: one line per optimizer step, appended; cut back to the checkpoint when a run resumes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distill_core.files import atomic_write_bytes


class MetricsFile:
    """Appends one JSON object per line, each with its ``step``.

    >>> import tempfile
    >>> file = MetricsFile(Path(tempfile.mkdtemp()) / "metrics.jsonl")
    >>> file.append({"step": 1, "loss": 2.0}); file.append({"step": 2, "loss": 1.0})
    >>> file.keep_until(1); [line["step"] for line in file.read()]
    [1]
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, line: Mapping[str, Any]) -> None:
        """Add a line; it is in the operating system's hands when this returns."""
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def keep_until(self, step: int) -> None:
        """Drop lines of later steps, and what was half written; creates the file if there is none."""
        kept = [line for line in self.read() if line["step"] <= step]
        atomic_write_bytes(self.path, "".join(json.dumps(line) + "\n" for line in kept).encode())

    def read(self) -> list[dict[str, Any]]:
        """All whole lines."""
        if not self.path.exists():
            return []
        lines: list[dict[str, Any]] = []
        for text in self.path.read_text(encoding="utf-8").splitlines():
            try:
                lines.append(json.loads(text))
            except ValueError:  # half a line, from a kill while it was written
                break
        return lines
