"""Our contestants: `engine.training.train` and `engine.capture.capture`, called as the stages of `distill run` do."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from benchmarks.side_by_side.clock import Clock
from benchmarks.side_by_side.world import World


def teacher_of(world: World) -> Any:
    """The `hf` teacher."""
    from distill_teachers.hf import HFTeacher
    from distill_teachers.options import HFOptions

    return HFTeacher(HFOptions(model=str(world.teacher), dtype="float32"))


def capture(world: World, scratch: Path) -> dict[str, Any]:
    """Capture the training data into `scratch/store`: the teacher is loaded, asked and its answers are written."""
    from distill_core.config import CaptureConfig
    from distill_core.engine.capture import capture as capture_signals

    s = world.settings
    config = CaptureConfig(method="threshold", k=s.threshold, batch_tokens=s.batch * s.length)
    teacher, data = teacher_of(world), world.data
    assert teacher.model is not None  # loaded here: rivals load theirs before the clock runs, too
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    found = capture_signals(teacher, data, config, scratch / "store", seed=s.seed)
    wall_s, cpu_s = time.perf_counter() - wall_s, time.process_time() - cpu_s
    n_bytes = sum(path.stat().st_size for path in (scratch / "store").rglob("*") if path.is_file())
    return {"capture_wall_s": wall_s, "capture_cpu_s": cpu_s, "sequences": found.sequences, "store_bytes": n_bytes}


def live(world: World, scratch: Path) -> dict[str, Any]:
    """The teacher answers in each step with a threshold sample, as `capture` stores it."""
    sparse = {"method": "threshold", "k": world.settings.threshold}
    return _train(world, scratch, teacher_of(world), {"teacher": "live", "sparse": sparse})


def live_topk(world: World, scratch: Path) -> dict[str, Any]:
    """The teacher answers in each step with its K largest logits and the mass of the rest."""
    sparse = {"method": "topk", "k": world.settings.topk}
    return _train(world, scratch, teacher_of(world), {"teacher": "live", "sparse": sparse})


def stored(world: World, scratch: Path) -> dict[str, Any]:
    """The teacher's answers are read from the store that `capture` left."""
    from distill_core.engine.stored import StoredSignals

    return _train(world, scratch, StoredSignals(scratch.parent / "capture" / "store"), {"teacher": "store"})


def _train(world: World, scratch: Path, teacher: Any, changes: dict[str, Any]) -> dict[str, Any]:
    from distill_core.config import InitConfig, StudentConfig, TrainConfig
    from distill_core.engine.progress import Progress
    from distill_core.engine.training import train
    from distill_core.registry import get_registry

    s, clock = world.settings, Clock()
    config = TrainConfig(
        max_steps=s.steps,
        batch_sequences=s.batch,
        learning_rate=s.learning_rate,
        lr_schedule="constant",
        warmup_steps=s.lr_warm_up,
        precision="float32",
        save_steps=s.steps,
        **changes,
    )
    losses: list[float] = []

    def on_step(step: int, metrics: dict[str, Any]) -> None:
        clock.mark()
        losses.append(float(metrics["loss"]))

    result = train(
        student_dir=world.student,
        student=StudentConfig(init=InitConfig(model=str(world.student))),
        tokenizer=world.tokenizer(),
        train_data=world.data,
        eval_data=None,
        config=config,
        teacher=teacher,
        directory=scratch / "train",
        seed=s.seed,
        registry=get_registry(),
        progress=Progress(quiet=True),
        on_step=on_step,
    )
    return {**clock.result(s.warm_up), "losses": losses, "model": str(result.model)}
