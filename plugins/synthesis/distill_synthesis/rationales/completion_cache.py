"""Answers already written, kept on disk line by line, so that a killed run asks for none of them twice."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from distill_core.completions import Completion, GenerationParameters, GenerationRequest
from distill_core.files import append_line
from distill_core.interfaces import Generator

FILE = "completions.jsonl"


class CompletionCache:
    """Asks a teacher for what the file does not hold; every answer is on disk before the next one is used.

    The key covers the teacher's identity, the whole request and all parameters. A last line without its end, which a
    kill may leave, is cut off.
    """

    def __init__(self, directory: Path, teacher: Generator) -> None:
        self.path, self.teacher = Path(directory) / FILE, teacher
        self.identity = teacher.identity()
        self.held = self._read()
        self.asked = 0

    def _read(self) -> dict[str, Completion]:
        if not self.path.is_file():
            return {}
        content = self.path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content):
            with open(self.path, "r+b") as file:
                file.truncate(len(whole))
        held = {}
        for line in whole.splitlines():
            row = json.loads(line)
            key = row.pop("key")
            held[key] = Completion(**row)
        return held

    def complete(
        self, requests: Sequence[GenerationRequest], parameters: GenerationParameters
    ) -> Iterator[tuple[GenerationRequest, Completion]]:
        """One completion per request, in their order."""
        keys = [self._key(request, parameters) for request in requests]
        wanted = [request for request, key in zip(requests, keys, strict=True) if key not in self.held]
        key_of = {request.id: key for request, key in zip(requests, keys, strict=True)}
        for completion in self.teacher.generate(wanted, parameters) if wanted else ():
            kept = replace(completion, tokens=None)
            key = key_of[completion.id]
            append_line(self.path, json.dumps({"key": key, **asdict(kept)}, ensure_ascii=False))
            self.held[key] = kept
            self.asked += 1
        for request, key in zip(requests, keys, strict=True):
            yield request, self.held[key]

    def _key(self, request: GenerationRequest, parameters: GenerationParameters) -> str:
        everything: Any = [self.identity, asdict(request), asdict(parameters)]
        return hashlib.sha256(json.dumps(everything, sort_keys=True).encode()).hexdigest()
