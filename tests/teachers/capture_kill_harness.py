"""Captures in forked children, kills them with SIGKILL at random moments, and starts the same capture again.

``python -m tests.teachers.capture_kill_harness DIRECTORY METHOD KILLS SEED`` prints one JSON line: how many kills hit a
running capture, in how many states (whole shards) they left the store, and whether every finished store is byte for
byte that of an uninterrupted capture. Libraries are imported once; the children inherit them.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import torch

from distill_core.config import CaptureConfig
from distill_core.engine.capture import capture
from distill_core.engine.data import collate
from distill_core.types import SparseSpec
from distill_teachers.hf import HFTeacher
from tests.conftest import make_tiny_llama
from tests.teachers.conftest import TARGETS, random_sequences

VOCABULARY = 97


class Letters:
    """A tokenizer of single tokens; all a capture asks of one is its vocabulary."""

    def __len__(self) -> int:
        return VOCABULARY

    def get_vocab(self) -> dict[str, int]:
        return {f"t{index}": index for index in range(VOCABULARY)}


def start(directory: Path, teacher: HFTeacher, method: Any) -> int:
    """Fork a child that captures, the command that is repeated; its exit code is 0 if it finished."""
    child = os.fork()
    if child:
        return child
    try:
        config = CaptureConfig(method=method, k=8, batch_tokens=150, shard_sequences=4)
        sequences = random_sequences(120, vocabulary=VOCABULARY, longest=60)
        capture(teacher, sequences, config, directory, seed=7)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def wait(child: int) -> int:
    return os.waitpid(child, 0)[1]


def kill_after(child: int, directory: Path, shards: int, delay_s: float) -> int:
    """SIGKILL `delay_s` after the store holds `shards` whole shards; the child's status, finished or not."""
    while whole_shards(directory) < shards:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return status
        time.sleep(0.0005)
    time.sleep(delay_s)
    os.kill(child, signal.SIGKILL)
    return wait(child)


def content(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def whole_shards(directory: Path) -> int:
    return len(list(directory.glob("shard-*.arrow"))) if directory.is_dir() else 0


def main(root: Path, method: str, kills: int, seed: int) -> dict[str, Any]:
    torch.set_num_threads(1)
    chance = random.Random(seed)
    # Loaded and asked once, so that a child's time is spent capturing.
    teacher = HFTeacher.from_model(make_tiny_llama(vocab_size=VOCABULARY), Letters(), label="tiny")
    teacher.signals(collate(random_sequences(1, vocabulary=VOCABULARY)), TARGETS, SparseSpec("topk", 8))
    reference, interrupted = root / "reference", root / "interrupted"
    began_s = time.monotonic()
    assert wait(start(reference, teacher, method)) == 0
    whole_s = time.monotonic() - began_s
    expected = content(reference)
    hits, finished, left = 0, 0, set()
    while hits < kills:
        child = start(interrupted, teacher, method)
        # At most four more shards, so that the kills are spread over the whole capture however fast it is.
        shards = whole_shards(interrupted) + chance.randint(0, 4)
        status = kill_after(child, interrupted, shards, chance.uniform(0.0, whole_s / 15))
        if os.WIFSIGNALED(status):
            hits += 1
            left.add(whole_shards(interrupted))
            continue
        assert status == 0, status
        assert content(interrupted) == expected
        finished += 1
        shutil.rmtree(interrupted)
    assert wait(start(interrupted, teacher, method)) == 0
    return {"hits": hits, "finished": finished, "states": len(left), "equal": content(interrupted) == expected}


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))))
