"""Checkpoints and models are on the disk before they have their name, whatever the machine does next."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from distill_core.engine import checkpoints

Events = Callable[[], list[tuple[str, str]]]


@pytest.fixture
def events(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Events:
    """What was flushed and renamed so far, by path below the test's directory, in order."""
    seen: list[tuple[str, str]] = []
    sync, rename = os.fsync, os.replace

    def below(path: str | os.PathLike[str]) -> str:
        return os.path.relpath(path, tmp_path)

    def fsync(descriptor: int) -> None:
        seen.append(("flush", below(os.readlink(f"/proc/self/fd/{descriptor}"))))
        sync(descriptor)

    def replace(source: Path, target: Path) -> None:
        seen.append(("rename", below(target)))
        rename(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    return lambda: list(seen)


def fill(directory: Path) -> list[str]:
    (directory / "shards").mkdir(parents=True)
    for name in ("model.safetensors", "shards/part"):
        (directory / name).write_bytes(b"weights")
    return ["model.safetensors", "shards", "shards/part", "."]


def test_a_checkpoint_is_flushed_before_its_seal_and_its_name(tmp_path: Path, events: Events) -> None:
    staged = checkpoints.staging_directory(tmp_path)
    content = {os.path.normpath(f"{staged.name}/{name}") for name in fill(staged)}
    checkpoints.seal(staged, step=3, identity={})
    checkpoints.publish(staged, tmp_path, step=3, keep=1)
    order = events()
    sealed = order.index(("rename", f"{staged.name}/{checkpoints.SEAL_FILE}"))
    assert {path for what, path in order[:sealed] if what == "flush"} >= content
    assert order[-2:] == [("rename", "checkpoint-3"), ("flush", ".")]


def test_a_model_is_flushed_before_it_has_its_name(tmp_path: Path, events: Events) -> None:
    with checkpoints.whole_directory(tmp_path / "model") as temporary:
        (temporary / "old").write_bytes(b"old")
    before = len(events())
    with checkpoints.whole_directory(tmp_path / "model") as temporary:
        content = {os.path.normpath(f"{temporary.name}/{name}") for name in fill(temporary)}
    order = events()[before:]
    named = order.index(("rename", "model"))
    assert {path for what, path in order[:named] if what == "flush"} >= content
    assert order[named + 1 :] == [("flush", ".")]
