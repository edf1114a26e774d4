"""Trains in forked children, kills them with SIGKILL at random moments, and starts them again.

`python -m tests.train.kill_harness DIRECTORY KILLS SEED` prints one JSON line: kills that hit, trainings that were
finished, and whether the metrics (but for clock readings) and the exported weights of every one are those of an
uninterrupted training. Libraries are imported once; the children inherit them.
"""

from __future__ import annotations

import hashlib
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

from tests.conftest import make_tiny_llama
from tests.train.setting import objectives, run_training, save_student, tiny_teacher, write_data

CONFIG = {
    "max_steps": 12,
    "batch_sequences": 2,
    "accumulation_steps": 2,
    "save_steps": 1,
    "lr_schedule": "linear",
    "objectives": objectives("kl", "gap", "sharpened"),
}


def start(directory: Path, root: Path) -> int:
    """Fork a child that trains; its exit code is 0 if it finished."""
    child = os.fork()
    if child:
        return child
    try:
        torch.set_num_threads(1)
        data = write_data(root / f"data-{os.getpid()}")
        run_training(directory, student_dir=root / "student", data=data, teacher=tiny_teacher(), config=CONFIG)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def finish(child: int) -> None:
    _, status = os.waitpid(child, 0)
    if status != 0:
        raise SystemExit(f"a training failed with status {status}")


def outcome(directory: Path) -> dict[str, Any]:
    lines = [json.loads(text) for text in (directory / "metrics.jsonl").read_text().splitlines()]
    steps = [{key: value for key, value in line.items() if key != "tokens_per_s"} for line in lines]
    return {"steps": steps, "weights": hashlib.sha256((directory / "model/model.safetensors").read_bytes()).hexdigest()}


def main(root: Path, kills: int, seed: int) -> None:
    make = os.fork()  # no torch in the parent: forking a process whose thread pools run is not safe
    if not make:
        save_student(root / "student", make_tiny_llama(seed=1))
        os._exit(0)
    os.waitpid(make, 0)
    began_s = time.monotonic()
    finish(start(root / "whole", root))
    duration_s = time.monotonic() - began_s
    expected = outcome(root / "whole")
    rng = random.Random(seed)
    hits, finished, equal = 0, 0, True
    interrupted = root / "interrupted"
    while hits < kills:
        child = start(interrupted, root)
        time.sleep(rng.uniform(0.0, duration_s))
        done, status = os.waitpid(child, os.WNOHANG)
        if done == 0:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            hits += 1
        elif status != 0:
            raise SystemExit(f"a training failed with status {status}")
        else:
            finished += 1
            equal = equal and outcome(interrupted) == expected
            shutil.rmtree(interrupted)
    finish(start(interrupted, root))
    finished += 1
    equal = equal and outcome(interrupted) == expected
    print(json.dumps({"kills": hits, "finished": finished, "equal": equal, "steps": len(expected["steps"])}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
