"""Hashes of the files a run reads, remembered by size and time, so that an unchanged model is not read again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from distill_core.engine.manifest import MANIFEST_FILE, file_sha256, fingerprint
from distill_core.files import write_json

TOKENIZER_FILES = ("tokenizer", "vocab", "merges", "special_tokens", "added_tokens", "chat_template", "spiece")
"""How the names of files start that make a tokenizer."""


NO_CONTENT = (MANIFEST_FILE, "README.md")
"""Files of a model directory that say something of it and change nothing: a stage's record, a model card."""


class FileHashes:
    """sha256 of files.

    Args:
        remembered: where they are kept between runs; None: nowhere.
    """

    def __init__(self, remembered: Path | None = None) -> None:
        self.remembered = remembered
        self._known: dict[str, list[Any]] = {}
        if remembered is not None:
            try:
                known = json.loads(remembered.read_text(encoding="utf-8"))
                self._known = known if isinstance(known, dict) else {}
            except (OSError, ValueError):
                self._known = {}

    def content(self, label: str, source: str, *, tokenizer_only: bool = False) -> dict[str, str]:
        """``{"<label> (content)": hash}`` of a file or a model directory; empty for what is not on this machine."""
        path = Path(source).expanduser()
        if not path.exists():
            return {}
        files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
        if tokenizer_only and path.is_dir():
            files = [file for file in files if file.name.startswith(TOKENIZER_FILES)]
        hashes = {
            file.relative_to(path).as_posix() if file != path else file.name: self.sha256(file)
            for file in files
            if file.name not in NO_CONTENT
        }
        return {f"{label} (content)": fingerprint(hashes)}

    def sha256(self, path: Path) -> str:
        path = path.resolve()
        stat = path.stat()
        stamp = [stat.st_size, stat.st_mtime_ns]
        known = self._known.get(str(path))
        if isinstance(known, list) and known[:2] == stamp:
            return str(known[2])
        value = file_sha256(path)
        self._known[str(path)] = [*stamp, value]
        if self.remembered is not None and self.remembered.parent.is_dir():
            write_json(self.remembered, self._known)
        return value
