"""One writer per store: a lock file that names its holder and dies with it.

The lock is a POSIX record lock on ``.lock``: the kernel drops it when the process ends, however it ends, and a forked
child does not inherit it. Record locks do not keep two writers of one process apart, so held paths are also remembered.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import threading
from pathlib import Path

from distill_core.errors import StoreError

LOCK = ".lock"

_held: set[tuple[int, Path]] = set()
_held_guard = threading.Lock()


class StoreLock:
    """Exclusive right to write in ``directory``; taken at construction, given back by :meth:`release`.

    Raises:
        StoreError: another writer holds it; names its process.
    """

    def __init__(self, directory: Path) -> None:
        self.path = directory.resolve() / LOCK
        self._mark = (os.getpid(), self.path)
        with _held_guard:
            if self._mark in _held:
                raise StoreError(f"{directory}: this process already writes to the store: finish or close that writer")
            self._descriptor = self._acquire(directory)
            _held.add(self._mark)

    def _acquire(self, directory: Path) -> int:
        while True:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                holder = os.read(descriptor, 4096)
                os.close(descriptor)
                raise StoreError(
                    f"{directory}: another capture is writing to this store ({_describe(holder)}): wait for it, or "
                    "end it and run this command again"
                ) from error
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), os.stat(self.path)):
                    break
            os.close(descriptor)  # the holder before us removed the file between our open and our lock
        os.ftruncate(descriptor, 0)
        os.write(descriptor, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode("utf-8"))
        return descriptor

    def release(self) -> None:
        """Remove the lock file and give the lock back. Calling it twice does nothing."""
        with _held_guard:
            if self._mark not in _held or self._mark[0] != os.getpid():
                return
            self.path.unlink(missing_ok=True)
            os.close(self._descriptor)
            _held.discard(self._mark)


def _describe(holder: bytes) -> str:
    try:
        content = json.loads(holder)
        return f"process {content['pid']} on {content['host']}"
    except (ValueError, KeyError, TypeError):
        return "process unknown"
