"""The number of entries of a live teacher's answer, constant or by a schedule."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from distill_core.config import SparseConfig
from distill_core.engine.data import TokenDataset
from distill_core.engine.sparsity import Sparsity
from distill_core.errors import ConfigError
from distill_core.registry import get_registry
from tests.run.conftest import Workshop, plain_teacher, workshop
from tests.train.setting import objectives, registry_with_objectives, run_training, tiny_teacher

__all__ = ["plain_teacher", "workshop"]


def sparsity(k: Any, *, method: str = "topk", total_steps: int = 5) -> Sparsity:
    config = SparseConfig.model_validate({"method": method, "k": k})
    return Sparsity(config, registry=get_registry(), total_steps=total_steps, seed=3)


def test_k_follows_its_schedule_in_whole_entries() -> None:
    one = sparsity({"use": "exponential", "start": 64, "end": 8})
    assert [one((1.0,), step).k for step in range(5)] == [64, 38, 23, 13, 8]
    assert one((2.0,), 2).temperatures == (2.0,) and one((1.0,), 2).seed == 5


def test_a_schedule_that_leaves_the_vocabulary_or_the_support_is_refused_beforehand() -> None:
    with pytest.raises(ConfigError, match=r"asks for 100 entries at step 4, but the teacher's vocabulary has 97 tok"):
        sparsity({"use": "linear", "start": 8, "end": 100}).check(97)
    with pytest.raises(ConfigError, match=r"asks for 0 entries at step 4; expected at least 1"):
        sparsity({"use": "linear", "start": 8, "end": 0}).check(97)
    sparsity({"use": "linear", "start": 8, "end": 100}, method="multinomial").check(97)
    sparsity(12).check(97)


def test_a_training_asks_for_the_scheduled_k(tmp_path: Path, student_dir: Path, data: TokenDataset) -> None:
    teacher = tiny_teacher()
    ramp = {"use": "ramp", "start": 12, "end": 4}
    config = {
        "teacher": "live", "objectives": objectives("kl"), "max_steps": 3, "sparse": {"method": "topk", "k": ramp}
    }  # fmt: skip
    run_training(tmp_path / "run", student_dir=student_dir, data=data, teacher=teacher, config=config)
    assert [spec.k for _, spec in teacher.asked if spec is not None] == [12, 8, 4]
    too_many = {**config, "sparse": {"method": "topk", "k": {**ramp, "start": 98}}}
    with pytest.raises(ConfigError, match="98 entries at step 0, but the teacher's vocabulary has 97"):
        run_training(tmp_path / "too-many", student_dir=student_dir, data=data, teacher=teacher, config=too_many)
    assert not (tmp_path / "too-many" / "metrics.jsonl").exists()


def test_a_weight_schedule_that_ends_early_stops_before_the_first_step(
    tmp_path: Path, student_dir: Path, data: TokenDataset
) -> None:
    from distill_core.errors import TrainingError
    from distill_objectives.options import StepOptions
    from distill_objectives.schedules.step import Step

    registry = registry_with_objectives()
    registry.register("schedule", "step", Step, options=StepOptions)
    weight = {"use": "step", "values": [1.0, 0.5], "boundaries": [1], "unit": "steps", "length_steps": 2}
    config = {"teacher": "live", "objectives": objectives({"use": "kl", "weight": weight}), "max_steps": 3}
    with pytest.raises(TrainingError, match="a step schedule ends early: it was written for 2 steps"):
        run_training(
            tmp_path, student_dir=student_dir, data=data, teacher=tiny_teacher(), config=config, registry=registry
        )
    assert (tmp_path / "metrics.jsonl").read_text() == ""


def test_a_run_file_with_schedule_and_order(workshop: Workshop) -> None:
    def change(run: dict[str, Any]) -> None:
        run["train"].update(
            teacher="live",
            sparse={"method": "topk", "k": {"use": "exponential", "start": 64, "end": 16}},
            order={"use": "curriculum", "by": "teacher-loss"},
        )
        run["compare"] = {"shuffled": {"order": None}}

    checked = workshop.check(change)
    assert ("train", "sparse", "k") in checked.components and ("train", "order") in checked.components
    assert checked.config.trainings()["shuffled"].order is None


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ({"sparse": {"k": {"use": "expnential", "start": 1, "end": 2}}}, "expnential"),
        ({"sparse": {"k": {"use": "linear", "begin": 1, "end": 2}}}, "train.sparse.k.start"),
        ({"sparse": {"k": 0}}, "train.sparse.k"),
        ({"sparse": {"shard_sequences": 3}}, "train.sparse.shard_sequences"),
        ({"order": {"use": "curriculum", "by": "teacher-loss"}}, "measures the teacher, .* expected live"),
        ({"order": {"use": "curriculum", "start_share": 0}}, "train.order.start_share"),
    ],
    ids=["unknown", "missing-option", "zero", "capture-only", "not-live", "option"],
)
def test_problems_name_their_place(workshop: Workshop, train: dict[str, Any], message: str) -> None:
    live = {"teacher": "live"} if "sparse" in train else {}
    with pytest.raises(ConfigError, match=message):
        workshop.check(lambda run: run["train"].update({**live, **train}))
