"""Checkpoints that are whole or not there.

A checkpoint is written into a hidden directory, flushed, sealed by ``complete.json`` (size and SHA-256 of every file)
and renamed to ``checkpoint-STEP``. Resuming takes the newest one whose seal holds and passes over any other.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distill_core.errors import TrainingError
from distill_core.files import atomic_write_bytes, fsync_directory

SEAL_FILE = "complete.json"
STAGING_PREFIX = ".writing-"
CHECKPOINT_PREFIX = "checkpoint-"


@dataclass(frozen=True)
class Checkpoint:
    """A whole checkpoint.

    Args:
        path: its directory.
        step: optimizer steps done.
        identity: what the run that wrote it was, as given to :func:`seal`.
    """

    path: Path
    step: int
    identity: Mapping[str, Any]


def staging_directory(root: Path) -> Path:
    """Where the next checkpoint is written before it is sealed; anything left there is rubbish."""
    return root / f"{STAGING_PREFIX}checkpoint"


def clear_staging(root: Path) -> None:
    """Remove what an interruption left behind."""
    for left in root.glob(f"{STAGING_PREFIX}*"):
        shutil.rmtree(left)


def seal(directory: Path, *, step: int, identity: Mapping[str, Any]) -> None:
    """Flush every file of a directory to the disk and write its seal, last."""
    files: dict[str, dict[str, Any]] = {}
    for path in sorted(path for path in directory.rglob("*") if path.is_file()):
        files[path.relative_to(directory).as_posix()] = {"bytes": path.stat().st_size, "sha256": _digest(path)}
    _flush(directory)
    content = {"step": step, "identity": dict(identity), "files": files}
    atomic_write_bytes(directory / SEAL_FILE, json.dumps(content, indent=1, sort_keys=True).encode())


def publish(staged: Path, root: Path, *, step: int, keep: int) -> Path:
    """Give a sealed directory its name, then delete all but the newest ``keep`` checkpoints."""
    final = root / f"{CHECKPOINT_PREFIX}{step}"
    if final.exists():
        shutil.rmtree(final)
    os.replace(staged, final)
    fsync_directory(root)
    for old in sorted(_by_step(root))[:-keep]:
        shutil.rmtree(root / f"{CHECKPOINT_PREFIX}{old}")
    return final


def last_whole(root: Path) -> tuple[Checkpoint | None, list[str]]:
    """The newest whole checkpoint, and one sentence for each newer one that was passed over."""
    passed_over: list[str] = []
    for step in sorted(_by_step(root), reverse=True):
        path = root / f"{CHECKPOINT_PREFIX}{step}"
        try:
            return Checkpoint(path, step, _verified(path)["identity"]), passed_over
        except TrainingError as problem:
            passed_over.append(f"{path.name} is passed over: {problem}")
    return None, passed_over


def _verified(path: Path) -> dict[str, Any]:
    """The seal's content, if every file is as it says."""
    try:
        content: dict[str, Any] = json.loads((path / SEAL_FILE).read_text(encoding="utf-8"))
        files = content["files"].items()
        content["identity"]
    except FileNotFoundError:
        raise TrainingError(f"it has no {SEAL_FILE}, so writing it was interrupted") from None
    except (ValueError, KeyError, AttributeError, OSError) as error:
        raise TrainingError(f"its {SEAL_FILE} cannot be read ({error})") from None
    for name, expected in files:
        file = path / name
        if not file.is_file():
            raise TrainingError(f"{name} is missing")
        if file.stat().st_size != expected["bytes"]:
            raise TrainingError(f"{name} has {file.stat().st_size} bytes, {expected['bytes']} were written")
        if _digest(file) != expected["sha256"]:
            raise TrainingError(f"{name} has other contents than were written")
    return content


def _by_step(root: Path) -> list[int]:
    names = [path.name.removeprefix(CHECKPOINT_PREFIX) for path in root.glob(f"{CHECKPOINT_PREFIX}*")]
    return [int(name) for name in names if name.isdigit()]


def _digest(path: Path) -> str:
    hasher = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            hasher.update(block)
    return hasher.hexdigest()


def _flush(directory: Path) -> None:
    for path in directory.rglob("*"):
        if path.is_file():
            with open(path, "rb+") as file:
                os.fsync(file.fileno())
        else:
            fsync_directory(path)
    fsync_directory(directory)


@contextmanager
def whole_directory(path: Path) -> Iterator[Path]:
    """A temporary directory to fill; on leaving, it is flushed and takes the place of ``path``.

    >>> import tempfile
    >>> target = Path(tempfile.mkdtemp()) / "model"
    >>> with whole_directory(target) as temporary:
    ...     _ = (temporary / "config.json").write_text("{}")
    >>> [p.name for p in target.iterdir()]
    ['config.json']
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{STAGING_PREFIX}{path.name}")
    replaced = path.with_name(f"{STAGING_PREFIX}old-{path.name}")
    for left in (temporary, replaced):
        shutil.rmtree(left, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        _flush(temporary)
        if path.exists():
            os.replace(path, replaced)
        os.replace(temporary, path)
        fsync_directory(path.parent)
    finally:
        for left in (temporary, replaced):
            shutil.rmtree(left, ignore_errors=True)
