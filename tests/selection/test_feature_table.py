"""The store of features: made once, resumed by shard, mended where damaged, keyed by what it depends on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distill_core.engine.features import FeatureStore

PARTS = {"model": "m", "data": "d", "dim": 3}


class Counted:
    """Rows of squares; remembers what was asked of it, and may fail."""

    def __init__(self, fails_at: int | None = None) -> None:
        self.asked: list[tuple[int, int]] = []
        self.fails_at = fails_at

    def __call__(self, start: int, stop: int) -> Any:
        if start == self.fails_at:
            raise KeyboardInterrupt
        self.asked.append((start, stop))
        return np.arange(start, stop)[:, None] ** np.arange(1, 4)


def expected(rows: int) -> Any:
    return (np.arange(rows)[:, None] ** np.arange(1, 4)).astype(np.float32)


def test_made_once_and_read_from_disk(tmp_path: Path) -> None:
    made = Counted()
    values = FeatureStore(tmp_path, shard_rows=4).table(PARTS, 10, 3, made)
    assert made.asked == [(0, 4), (4, 8), (8, 10)]
    assert isinstance(values, np.memmap) and not values.flags.writeable
    again = Counted()
    np.testing.assert_array_equal(FeatureStore(tmp_path, shard_rows=4).table(PARTS, 10, None, again), expected(10))
    assert not again.asked


def test_an_interruption_loses_one_shard(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        FeatureStore(tmp_path, shard_rows=4).table(PARTS, 10, 3, Counted(fails_at=8))
    rest = Counted()
    np.testing.assert_array_equal(FeatureStore(tmp_path, shard_rows=4).table(PARTS, 10, 3, rest), expected(10))
    assert rest.asked == [(8, 10)]


KILLED = """
import os, signal, sys
import numpy as np
from distill_core.engine.features import FeatureStore

def rows(start, stop):
    if start == 8:
        os.kill(os.getpid(), signal.SIGKILL)
    return np.arange(start, stop)[:, None] ** np.arange(1, 4)

FeatureStore(sys.argv[1], shard_rows=4).table({"model": "m", "data": "d", "dim": 3}, 10, 3, rows)
"""


def test_kill_9_loses_one_shard(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], env=os.environ, timeout=120)
    assert done.returncode == -signal.SIGKILL
    rest = Counted()
    np.testing.assert_array_equal(FeatureStore(tmp_path, shard_rows=4).table(PARTS, 10, 3, rest), expected(10))
    assert rest.asked == [(8, 10)]


def test_a_damaged_shard_is_made_again(tmp_path: Path) -> None:
    FeatureStore(tmp_path, shard_rows=4).table(PARTS, 10, 3, Counted())
    (path,) = tmp_path.glob("*/features.npy")
    content = bytearray(path.read_bytes())
    content[-5 * 3 * 4] ^= 1  # inside rows 4 to 8
    path.write_bytes(content)
    mended = Counted()
    np.testing.assert_array_equal(FeatureStore(tmp_path, shard_rows=4).table(PARTS, 10, 3, mended), expected(10))
    assert mended.asked == [(4, 8)]


@pytest.mark.parametrize("broken", ["", "[]", '{"parts": 1}', "no json"], ids=["empty", "list", "other", "text"])
def test_a_broken_description_starts_over(tmp_path: Path, broken: str) -> None:
    FeatureStore(tmp_path, shard_rows=4).table(PARTS, 10, 3, Counted())
    (path,) = tmp_path.glob("*/table.json")
    path.write_text(broken)
    again = Counted()
    np.testing.assert_array_equal(FeatureStore(tmp_path, shard_rows=4).table(PARTS, 10, 3, again), expected(10))
    assert len(again.asked) == 3


def test_other_parts_are_another_table(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path, shard_rows=4)
    store.table(PARTS, 10, 3, Counted())
    for changed in ({"model": "n"}, {"data": "e"}, {"dim": 4}):
        other = Counted()
        store.table({**PARTS, **changed}, 10, 3, other)
        assert other.asked


def test_wrong_use(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path, shard_rows=4)
    with pytest.raises(ValueError, match=r"rows 0 to 4 came as \(4, 3\), expected 2 columns"):
        store.table(PARTS, 10, 2, Counted())
    with pytest.raises(ValueError, match="3 shards are missing and nothing makes them"):
        store.table(PARTS, 10, 3, None)
