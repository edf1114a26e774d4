"""What a stage did: one ``manifest.json`` in its directory, written whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import shutil
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from distill_core import __version__
from distill_core.files import write_json

MANIFEST_FILE = "manifest.json"

NO_OUTPUT = ("checkpoints", "tensorboard")
"""Directories of a stage that are working state: no other stage reads them, so they are left out of its outputs."""

Status = Literal["running", "failed", "finished"]


@dataclass(frozen=True)
class OutputFile:
    """A file that a stage wrote; size and time tell cheaply whether it is still the same."""

    path: str
    sha256: str
    size_bytes: int
    mtime_ns: int


@dataclass
class Manifest:
    """The record of one stage.

    Args:
        stage: e.g. ``capture:main``.
        status: ``running`` (also after a kill), ``failed`` or ``finished``.
        fingerprint: hash of ``parts``.
        parts: everything the output depends on, flat: path in the run file (or a name) -> value.
        outputs: files written (finished).
        output_digest: hash of their names and contents; later stages depend on it.
        notes: what the stage says about itself: tokenizer fingerprint, counts, chosen kernel implementations.
        environment: versions and machine, for the record; no part of the fingerprint.
        started, finished: UTC, ISO 8601.
        seconds: working time over all attempts.
        cpu_seconds: processor time of this process, all its threads, over all attempts; not that of other processes.
        attempts: times it was started.
        error: message of a failure.
    """

    stage: str
    status: Status
    fingerprint: str
    parts: dict[str, Any]
    outputs: list[OutputFile] = field(default_factory=list)
    output_digest: str = ""
    notes: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)
    started: str = ""
    finished: str = ""
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    attempts: int = 1
    error: str = ""

    def write(self, directory: Path) -> None:
        write_json(directory / MANIFEST_FILE, asdict(self))


def read_manifest(directory: Path) -> Manifest | None:
    """The manifest of a stage directory; None if there is none or it is unreadable (then the stage runs anew)."""
    try:
        values = json.loads((directory / MANIFEST_FILE).read_text(encoding="utf-8"))
        known = {f.name for f in fields(Manifest)}
        values = {name: value for name, value in values.items() if name in known}
        values["outputs"] = [OutputFile(**output) for output in values.get("outputs", [])]
        return Manifest(**values)
    except (OSError, ValueError, TypeError, AttributeError):
        return None


def fingerprint(parts: Mapping[str, Any]) -> str:
    """sha256 of canonical JSON: sorted keys, no spaces; equal across processes and machines.

    >>> fingerprint({"b": 1, "a": [1.0]}) == fingerprint({"a": [1.0], "b": 1})
    True
    """
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def flat(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Leaves of nested plain data, by their path.

    >>> dict(flat("train", {"k": 2, "objectives": [{"use": "a"}], "stores": []}))
    {'train.k': 2, 'train.objectives[0].use': 'a', 'train.stores': []}
    """
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            yield from flat(f"{path}.{key}" if path else str(key), item)
    elif isinstance(value, list | tuple) and value:
        for index, item in enumerate(value):
            yield from flat(f"{path}[{index}]", item)
    else:
        yield path, list(value) if isinstance(value, tuple) else value


def changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What differs between two sets of parts, one phrase each: ``train.learning_rate 0.0001 -> 0.001``.

    A section that is new or gone as a whole is one phrase.

    >>> changes({"train.k": 2}, {"train.k": 3, "compare.hot.k": 2, "compare.hot.steps": 9})
    ['train.k 2 -> 3', 'compare is new']
    """
    phrases = []
    sections_new, sections_old = _sections(new), _sections(old)
    for path in [*new, *(path for path in old if path not in new)]:
        if path not in old:
            phrases.append(_one_sided(path, new, "is new", sections_old, sections_new))
        elif path not in new:
            phrases.append(_one_sided(path, old, "is gone", sections_new, sections_old))
        elif old[path] != new[path]:
            phrases.append(f"{path} {_short(old[path])} -> {_short(new[path])}")
    return list(dict.fromkeys(phrases))


def _sections(parts: Mapping[str, Any]) -> Counter[str]:
    """How many leaves lie below each section: ``train``, ``train.objectives``, ``train.objectives[0]``."""
    return Counter(path[: mark.start()] for path in parts for mark in re.finditer(r"[.\[]", path))


def _one_sided(path: str, parts: Mapping[str, Any], what: str, there: Counter[str], here: Counter[str]) -> str:
    """The outermost section around ``path`` that the other side lacks, or ``path`` itself with its value."""
    for mark in re.finditer(r"[.\[]", path):
        section = path[: mark.start()]
        if section not in there and here[section] > 1:
            return f"{section} {what}"
    return f"{path} {what}: {_short(parts[path])}" if what == "is new" else f"{path} {what} (was {_short(parts[path])})"


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    if len(text) == 64 and set(text) <= set("0123456789abcdef"):
        return text[:12]
    return text if len(text) <= 48 else text[:45] + "..."


def file_sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() if sys.version_info >= (3, 11) else _digest(file)


def _digest(file: Any) -> str:
    state = hashlib.sha256()
    while block := file.read(1 << 20):
        state.update(block)
    return state.hexdigest()


def list_outputs(directory: Path) -> list[OutputFile]:
    """All files of a finished stage, in order of their names."""
    outputs = []
    for path in sorted(_files(directory)):
        stat = path.stat()
        name = path.relative_to(directory).as_posix()
        outputs.append(OutputFile(name, file_sha256(path), stat.st_size, stat.st_mtime_ns))
    return outputs


def _files(directory: Path) -> Iterator[Path]:
    for root, directories, names in os.walk(directory):
        here = Path(root)
        if here == directory:
            directories[:] = [name for name in directories if name not in NO_OUTPUT]
        yield from (here / name for name in names if not (here == directory and name == MANIFEST_FILE))


def clear(directory: Path) -> None:
    """Remove everything in a stage's directory but its manifest."""
    for path in directory.iterdir():
        if path.name != MANIFEST_FILE:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def output_digest(outputs: Iterable[OutputFile]) -> str:
    return fingerprint({output.path: output.sha256 for output in outputs})


def damaged_outputs(directory: Path, manifest: Manifest) -> list[str]:
    """Outputs that are missing or not what was written; contents are read only where size or time differ."""
    problems = []
    for output in manifest.outputs:
        path = directory / output.path
        try:
            stat = path.stat()
        except OSError:
            problems.append(f"{output.path} is missing")
            continue
        if (stat.st_size, stat.st_mtime_ns) == (output.size_bytes, output.mtime_ns):
            continue
        if stat.st_size != output.size_bytes or file_sha256(path) != output.sha256:
            problems.append(f"{output.path} was changed")
    return problems


def now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def environment() -> dict[str, Any]:
    """Versions and machine, without importing what they are of."""
    versions: dict[str, str] = {"distill-core": __version__}
    for name in ("torch", "transformers", "accelerate", "numpy", "pyarrow", "triton"):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processors": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": os.environ.get("OMP_NUM_THREADS", ""),
        "versions": versions,
    }
