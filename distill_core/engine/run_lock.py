"""One run at a time in an output directory. The kernel drops the lock when the process ends, however it ends."""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from distill_core.errors import DistillError

LOCK_FILE = ".run.lock"


@contextmanager
def run_lock(directory: Path) -> Iterator[None]:
    """Hold the directory.

    Raises:
        DistillError: another process holds it; the message names that process.
    """
    descriptor = os.open(directory / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.pread(descriptor, 200, 0).decode("utf-8", "replace").strip() or "unknown"
            raise DistillError(
                f"{directory}: another distill process is running there ({holder}): wait for it to end, or use another "
                "output_dir"
            ) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)
