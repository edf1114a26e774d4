"""Tables of numbers on disk: memory-mapped float32, made shard by shard, keyed by everything they depend on.

A table is a directory with ``features.npy`` (float32 [rows, width], as numpy writes it) and ``table.json``: what the
table depends on, and a checksum per finished shard. A shard counts as finished once its bytes were flushed and
``table.json`` was replaced; ``kill -9`` loses at most the one under way, and a shard that was damaged is made again.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from distill_core.engine.manifest import fingerprint
from distill_core.engine.progress import Progress
from distill_core.engine.run_lock import run_lock
from distill_core.files import remove_temporaries, write_json

VALUES_FILE, TABLE_FILE = "features.npy", "table.json"

Floats = npt.NDArray[np.float32]


class FeatureStore:
    """The tables below a directory.

    Args:
        root: where they lie; made if need be.
        shard_rows: rows per shard, the most that an interruption loses; default 256.
        progress: shows rows as they are made; None: silence.

    >>> import tempfile
    >>> store = FeatureStore(tempfile.mkdtemp())
    >>> made = store.table({"of": "squares"}, 3, 1, lambda a, b: np.arange(a, b)[:, None] ** 2)
    >>> made.ravel().tolist(), store.table({"of": "squares"}, 3, 1, None).ravel().tolist()
    ([0.0, 1.0, 4.0], [0.0, 1.0, 4.0])
    """

    def __init__(self, root: Path | str, *, shard_rows: int = 256, progress: Progress | None = None) -> None:
        self.root, self.shard_rows = Path(root), shard_rows
        self.progress = Progress(quiet=True) if progress is None else progress

    def table(
        self,
        parts: Mapping[str, Any],
        rows: int,
        width: int | None,
        compute: Callable[[int, int], npt.ArrayLike] | None,
        *,
        label: str = "features",
    ) -> Floats:
        """The table of ``parts``, read-only and memory-mapped; what is missing of it is made.

        Args:
            parts: flat plain data, everything the numbers depend on: model, data, projection.
            rows: rows of the table.
            width: columns of the table; None: as many as ``compute`` gives.
            compute: ``compute(start, stop)`` gives [stop - start, width]; None where the table must be whole already.
            label: what is made, beside the progress.

        Raises:
            ValueError: ``compute`` gave another shape, or is None and something is missing.
            DistillError: another process is making this table.
        """
        directory = self.root / fingerprint(parts)[:32]
        directory.mkdir(parents=True, exist_ok=True)
        with run_lock(directory):
            remove_temporaries(directory)
            done = self._finished(directory, parts, rows, width)
            missing = [start for start in range(0, rows, self.shard_rows) if start not in done]
            if missing:
                self._make(directory, parts, rows, width, done, missing, compute, label)
        return np.load(directory / VALUES_FILE, mmap_mode="r")  # type: ignore[no-any-return]

    def _finished(self, directory: Path, parts: Mapping[str, Any], rows: int, width: int | None) -> dict[int, int]:
        """Checksums of the shards that are whole, by their first row."""
        try:
            described = json.loads((directory / TABLE_FILE).read_text(encoding="utf-8"))
            values = np.load(directory / VALUES_FILE, mmap_mode="r")
            same = described["parts"] == dict(parts) and described["shard_rows"] == self.shard_rows
            shards = {int(start): int(checksum) for start, checksum in described["shards"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return {}
        shape = (rows, values.shape[-1] if width is None else width)
        if not same or values.shape != shape or values.dtype != np.float32:
            return {}
        return {start: c for start, c in shards.items() if c == _checksum(values[start : start + self.shard_rows])}

    def _make(
        self,
        directory: Path,
        parts: Mapping[str, Any],
        rows: int,
        width: int | None,
        done: dict[int, int],
        missing: list[int],
        compute: Callable[[int, int], npt.ArrayLike] | None,
        label: str,
    ) -> None:
        if compute is None:
            raise ValueError(
                f"{directory}: {len(missing)} shards are missing and nothing makes them; parts: {dict(parts)}"
            )
        path = directory / VALUES_FILE
        values: Any = np.lib.format.open_memmap(path, mode="r+") if done else None
        with self.progress.task(label, rows, unit="seq") as task:
            task.advance(rows - sum(min(self.shard_rows, rows - start) for start in missing))
            for start in missing:
                stop = min(start + self.shard_rows, rows)
                found = np.asarray(compute(start, stop), dtype=np.float32)
                width = found.shape[-1] if width is None else width
                if found.shape != (stop - start, width):
                    raise ValueError(f"{label}: rows {start} to {stop} came as {found.shape}, expected {width} columns")
                if values is None:
                    values = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(rows, width))
                values[start:stop] = found
                values.flush()
                done[start] = _checksum(values[start:stop])
                write_json(directory / TABLE_FILE, self._described(parts, (rows, width), done))
                task.advance(stop - start)

    def _described(self, parts: Mapping[str, Any], shape: tuple[int, int], done: Mapping[int, int]) -> dict[str, Any]:
        shards = {str(start): done[start] for start in sorted(done)}
        return {"parts": dict(parts), "shape": list(shape), "shard_rows": self.shard_rows, "shards": shards}


def _checksum(values: npt.NDArray[Any]) -> int:
    return zlib.crc32(np.ascontiguousarray(values).tobytes())
