"""A path holds the old content or the new one, never a part."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from distill_core import files
from distill_core.errors import DistillError


def test_writers_replace_and_leave_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    files.write_json(path, {"b": 1, "a": "ü"})
    assert path.read_text(encoding="utf-8") == '{\n  "b": 1,\n  "a": "ü"\n}\n'
    files.write_text(path, "x")
    files.atomic_write_bytes(path, b"\x00\x01")
    with files.atomic_file(path) as file:
        file.write(b"final")
    files.append_line(path, "line")
    assert path.read_bytes() == b"finalline\n"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.json"]


def test_an_error_inside_keeps_the_old_content(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"old")
    with pytest.raises(RuntimeError), files.atomic_file(path) as file:
        file.write(b"new")
        raise RuntimeError
    assert path.read_bytes() == b"old" and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("operation", ["fsync", "replace"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_no_space_names_file_and_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, operation: str, code: int
) -> None:
    def full(*arguments: object) -> None:
        raise OSError(code, os.strerror(code))

    path = tmp_path / "big.bin"
    path.write_bytes(b"old")
    monkeypatch.setattr(os, operation, full)
    with pytest.raises(DistillError, match=r"big\.bin: no space left .* 12,345 bytes"):
        files.atomic_write_bytes(path, bytes(12_345))
    with pytest.raises(DistillError, match=r"big\.bin: no space left .* 2,000 bytes"), files.atomic_file(path) as file:
        file.write(bytes(2_000))
    assert path.read_bytes() == b"old" and len(list(tmp_path.iterdir())) == 1


def test_no_space_while_appending_cuts_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "lines"
    files.append_line(path, "first")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DistillError, match="7 bytes"):
        files.append_line(path, "second")
    assert path.read_bytes() == b"first\n"


def test_a_missing_directory_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(DistillError, match=r"no/a: writing failed \(No such file"):
        files.atomic_write_bytes(tmp_path / "no" / "a", b"")


def test_data_is_synced_before_the_rename(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    for name in ("fsync", "replace"):
        original = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *a, name=name, original=original: events.append(name) or original(*a))
    files.atomic_write_bytes(tmp_path / "a", b"1")
    with files.atomic_file(tmp_path / "b") as file:
        file.write(b"2")
    assert events == ["fsync", "replace", "fsync"] * 2


def test_the_name_of_an_appended_file_is_synced_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[Path] = []
    monkeypatch.setattr(files, "fsync_directory", synced.append)
    files.append_line(tmp_path / "lines", "first")
    assert synced == [tmp_path]
    files.append_line(tmp_path / "lines", "second")
    assert synced == [tmp_path], "the name is there already"


def test_leftovers_are_removed(tmp_path: Path) -> None:
    (tmp_path / ".tmp-99-a.arrow").write_bytes(b"half")
    (tmp_path / "a.arrow").write_bytes(b"whole")
    assert files.remove_temporaries(tmp_path) == [".tmp-99-a.arrow"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.arrow"]
