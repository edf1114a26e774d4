"""The teacher's responses on disk: written once per prompt, found again in later epochs and after an interruption.

One JSON line holds all responses that were written together, so a line that an interruption tore is dropped whole and
its responses are written again in the same company, bit for bit.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distill_core.errors import DataError

FORMAT = 1


@dataclass(frozen=True)
class Response:
    """A response and the log-probabilities of its tokens: as drawn, and of the teacher at temperature 1."""

    ids: list[int]
    behaviour_logp: list[float]
    teacher_logp: list[float]


class TeacherResponses:
    """Responses by the content key of their prompt.

    Args:
        directory: where the files lie; created at the first response.
        settings: everything else the responses depend on; other settings are another file.
        rank: each process writes a file of its own and reads those of all.

    Raises:
        DataError: a file is damaged before its end.

    >>> import tempfile
    >>> responses = TeacherResponses(Path(tempfile.mkdtemp()), {"seed": 0})
    >>> responses.add({b"key": Response([5], [-0.5], [-0.5])})
    >>> responses.found[b"key"].ids
    [5]
    """

    def __init__(self, directory: Path, settings: Mapping[str, Any], *, rank: int = 0) -> None:
        text = json.dumps({"format": FORMAT, **settings}, sort_keys=True)
        name = "teacher-" + hashlib.sha256(text.encode()).hexdigest()[:16]
        self.path = directory / f"{name}.rank{rank}.jsonl"
        self.found: dict[bytes, Response] = {}
        for path in sorted(directory.glob(f"{name}.rank*.jsonl")):
            self._load(path, mend=path == self.path)

    def _load(self, path: Path, *, mend: bool) -> None:
        content = path.read_bytes()
        whole = content.rfind(b"\n") + 1
        for number, line in enumerate(content[:whole].splitlines(), start=1):
            try:
                entries = json.loads(line)["responses"]
                self.found.update({bytes.fromhex(one.pop("prompt")): Response(**one) for one in entries})
            except (ValueError, KeyError, TypeError) as error:
                raise DataError(
                    f"{path}, line {number}: no responses of a teacher ({type(error).__name__}): the file is damaged; "
                    "delete it, and the teacher writes them again"
                ) from error
        if mend and whole < len(content):
            os.truncate(path, whole)

    def add(self, responses: Mapping[bytes, Response]) -> None:
        """Keep responses that were written together; they are on disk when this returns."""
        self.found.update(responses)
        entries = [{"prompt": key.hex(), **vars(response)} for key, response in responses.items()]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "ab") as file:
            file.write(json.dumps({"responses": entries}).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())

    def missing(self, keys: Sequence[bytes]) -> list[bytes]:
        """Those not there, each once, in order."""
        return [key for key in dict.fromkeys(keys) if key not in self.found]
