"""Files that are whole or absent: write under a temporary name, fsync, rename, fsync the directory.

After a crash at any moment the path holds the old content or the new one, never a part. Whatever a killed process left
behind has a name that :func:`remove_temporaries` knows.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from distill_core.errors import DistillError

TEMPORARY_PREFIX = ".tmp-"
"""Start of the name of every file that is not finished yet."""

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


@contextlib.contextmanager
def atomic_file(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """Open a binary file that appears at ``path`` whole, or not at all.

    Args:
        path: where the file shall lie; its directory must exist.

    Raises:
        DistillError: no space left on the device, or the directory cannot be written to; nothing is left behind.

    >>> import tempfile
    >>> target = Path(tempfile.mkdtemp()) / "numbers.bin"
    >>> with atomic_file(target) as file:
    ...     _ = file.write(b"123")
    >>> target.read_bytes()
    b'123'
    """
    path = Path(path)
    temporary = path.with_name(f"{TEMPORARY_PREFIX}{os.getpid()}-{path.name}")
    written = 0
    try:
        with open(temporary, "wb") as file:
            try:
                yield file
                written = file.tell()
                file.flush()
            except OSError:
                with contextlib.suppress(OSError, ValueError):
                    written = max(written, file.tell())
                raise
            os.fsync(file.fileno())
        os.replace(temporary, path)
        fsync_directory(path.parent)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise _explained(error, path, written) from error
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def atomic_write_bytes(path: str | os.PathLike[str], content: bytes) -> None:
    """Write ``content`` atomically (see :func:`atomic_file`).

    Raises:
        DistillError: no space left, naming the file and the number of bytes; or the directory cannot be written to.
    """
    with atomic_file(path) as file:
        file.write(content)


def write_text(path: str | os.PathLike[str], content: str) -> None:
    """Write UTF-8 text atomically."""
    atomic_write_bytes(path, content.encode("utf-8"))


def write_json(path: str | os.PathLike[str], value: Any, *, indent: int | None = 2) -> None:
    """Write JSON atomically, with a newline at the end; keys keep their order."""
    write_text(path, json.dumps(value, indent=indent, ensure_ascii=False) + "\n")


def append_line(path: str | os.PathLike[str], line: str) -> None:
    """Append one line of text and fsync. A crash may leave a last line without its newline: readers must drop it.

    Raises:
        DistillError: no space left; the file is cut back to what it held.
    """
    path = Path(path)
    content = line.encode("utf-8") + b"\n"
    existed = path.exists()
    try:
        with open(path, "ab") as file:
            before = file.tell()
            try:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            except OSError:
                os.ftruncate(file.fileno(), before)
                raise
        if not existed:
            fsync_directory(path.parent)
    except OSError as error:
        raise _explained(error, path, len(content)) from error


def fsync_directory(directory: str | os.PathLike[str]) -> None:
    """Make renames in ``directory`` durable."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # file systems without directory fsync
            raise
    finally:
        os.close(descriptor)


def remove_temporaries(directory: str | os.PathLike[str]) -> list[str]:
    """Remove what killed processes left in ``directory``; call it only while no one else writes there.

    Returns:
        Names of the removed files, sorted.
    """
    removed = []
    for path in sorted(Path(directory).glob(f"{TEMPORARY_PREFIX}*")):
        if path.is_file():
            path.unlink(missing_ok=True)
            removed.append(path.name)
    return removed


def _explained(error: OSError, path: Path, n_bytes: int) -> DistillError:
    if error.errno in _NO_SPACE:
        return DistillError(
            f"{path}: no space left on the device while writing {n_bytes:,} bytes; nothing was left half written. "
            "Free some space (or choose another output directory) and run the same command again: it resumes"
        )
    if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
        return DistillError(f"{path}: cannot be written ({error.strerror}): check the permissions of {path.parent}")
    return DistillError(f"{path}: writing failed ({error.strerror or error})")
