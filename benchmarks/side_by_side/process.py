"""One contestant in this process: `python -m benchmarks.side_by_side.process WORLD CONTESTANT SCRATCH ROUND`.

Leaves `SCRATCH/result.json`, whole or not at all.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import result
from benchmarks.side_by_side import ours, rivals
from benchmarks.side_by_side.clock import memory
from benchmarks.side_by_side.world import World, held_out_kl

CONTESTANTS: dict[str, Callable[[World, Path], dict[str, Any]]] = {
    "capture": ours.capture,
    "store": ours.stored,
    "live": ours.live,
    "live-topk": ours.live_topk,
    "distillation": rivals.distillation,
    "gkd": rivals.gkd,
}
"""In the order of a round; `store` reads what `capture` of its round left."""

USUAL = tuple(name for name in CONTESTANTS if name != "live-topk")
"""Who takes part if nobody is named."""

RIVALS = ("distillation", "gkd")


def measure(world: World, name: str, scratch: Path) -> dict[str, Any]:
    """Run a contestant here; its peak is that of the whole process up to now."""
    found = CONTESTANTS[name](world, scratch)
    return {"contestant": name, **found, **memory()}


def in_fresh_process(world: World, name: str, scratch: Path, number: int) -> dict[str, Any]:
    """The same in a process of its own; what was measured before is read, not measured again.

    Raises:
        RuntimeError: it failed; the message ends with what it wrote.
    """
    done = scratch / "result.json"
    if not done.exists():
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        _python(str(world.directory), name, str(scratch), str(number))
    return result.load(done)


def held_out(world: World, scratch: Path) -> list[float]:
    """Held-out KL per sequence of the student of a contestant; equal students are judged once.

    A judged student is known by the hash of its weights, which are then removed.
    """
    known = scratch / "result.json"
    found = result.load(known)
    if "weights" not in found:
        model = Path(found["model"])
        digest = hashlib.sha256((model / "model.safetensors").read_bytes()).hexdigest()[:32]
        judged = world.directory / "judged" / f"{digest}.json"
        if not judged.exists():
            _python(str(world.directory), "judge", str(model), str(judged))
        result.save({**found, "weights": digest}, known)
        shutil.rmtree(model)
        shutil.rmtree(scratch / "train" / "checkpoints", ignore_errors=True)
        return held_out(world, scratch)
    kl: list[float] = json.loads((world.directory / "judged" / f"{found['weights']}.json").read_text())["kl"]
    return kl


def judge(world: World, student: Path, into: Path) -> list[float]:
    """Held-out KL per sequence of the student in a directory, written to a file."""
    kl = held_out_kl(world, student)
    result.save({"kl": kl}, into)
    return kl


def initial_kl(world: World) -> float:
    """Mean held-out KL of the student before training."""
    into = world.directory / "judged" / "initial.json"
    if not into.exists():
        _python(str(world.directory), "judge", str(world.student), str(into))
    return statistics.mean(json.loads(into.read_text())["kl"])


def _python(*words: str) -> None:
    """This module in a fresh process."""
    command = [sys.executable, "-m", "benchmarks.side_by_side.process", *words]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-3000:]}")


def main() -> None:
    directory, name, path, last = sys.argv[1:]
    world = World.open(Path(directory))
    if name == "judge":
        judge(world, Path(path), Path(last))
    else:
        result.save(measure(world.of_round(int(last)), name, Path(path)), Path(path) / "result.json")


if __name__ == "__main__":
    main()
