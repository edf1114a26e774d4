"""Whole checkpoints, resuming, and kill -9."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from distill_core.engine import checkpoints
from distill_core.engine.data import TokenDataset
from distill_core.engine.metrics_file import MetricsFile
from distill_core.engine.progress import Progress
from distill_core.engine.whole_checkpoints import OBJECTIVE_STATE_FILE
from distill_core.errors import TrainingError
from tests.train.setting import TrainResult, objectives, run_training, tiny_teacher

CONFIG = {
    "max_steps": 7,
    "batch_sequences": 2,
    "accumulation_steps": 2,
    "save_steps": 2,
    "lr_schedule": "cosine",
    "warmup_steps": 2,
    "eval_steps": 3,
    "objectives": objectives("kl", "gap", {"use": "sharpened", "weight": 0.5}),
}


class Stop(Exception):
    """Stands for a crash."""


def losses(path: Path) -> list[dict[str, Any]]:
    """Everything in the metrics but what the clock decides."""
    lines = [json.loads(text) for text in path.read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "tokens_per_s"} for line in lines]


def weights(result: TrainResult) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = AutoModelForCausalLM.from_pretrained(result.model).state_dict()
    return state


def stop_after(step: int) -> Any:
    def on_step(now: int, metrics: dict[str, Any]) -> None:
        if now == step:
            raise Stop

    return on_step


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory, student_dir: Path, data: TokenDataset) -> TrainResult:
    directory = tmp_path_factory.mktemp("uninterrupted")
    return run_training(
        directory, student_dir=student_dir, data=data, teacher=tiny_teacher(), eval_data=data, config=CONFIG
    )


def resume(directory: Path, student_dir: Path, data: TokenDataset, **changes: Any) -> TrainResult:
    return run_training(
        directory,
        student_dir=student_dir,
        data=data,
        teacher=tiny_teacher(),
        eval_data=data,
        **{"config": CONFIG, **changes},
    )


@pytest.mark.parametrize("stopped_at", [1, 4, 5])
def test_resumed_losses_are_bit_identical(
    tmp_path: Path, student_dir: Path, data: TokenDataset, uninterrupted: TrainResult, stopped_at: int
) -> None:
    with pytest.raises(Stop):
        resume(tmp_path, student_dir, data, on_step=stop_after(stopped_at))
    result = resume(tmp_path, student_dir, data)
    # a crash at step 4 comes before its checkpoint is written
    assert result.resumed_from_step == {1: 0, 4: 2, 5: 4}[stopped_at]
    assert losses(result.metrics) == losses(uninterrupted.metrics)
    mine, whole = weights(result), weights(uninterrupted)
    assert all(torch.equal(mine[name], whole[name]) for name in whole)


def test_dropout_resumes_with_its_random_state(tmp_path: Path, data: TokenDataset) -> None:
    from tests.conftest import make_tiny_llama
    from tests.train.setting import save_student

    student_dir = save_student(tmp_path / "student", make_tiny_llama(seed=1, attention_dropout=0.4))
    config = {"max_steps": 4, "save_steps": 2, "objectives": objectives("hard")}
    runs = [tmp_path / "whole", tmp_path / "resumed"]
    run_training(runs[0], student_dir=student_dir, data=data, config=config)
    with pytest.raises(Stop):
        run_training(runs[1], student_dir=student_dir, data=data, config=config, on_step=stop_after(3))
    assert run_training(runs[1], student_dir=student_dir, data=data, config=config).resumed_from_step == 2
    assert losses(runs[0] / "metrics.jsonl") == losses(runs[1] / "metrics.jsonl")


def test_a_lora_student_with_objective_parameters_resumes(
    tmp_path: Path, student_dir: Path, data: TokenDataset
) -> None:
    from distill_core.config import InitConfig, PeftSection, StudentConfig

    student = StudentConfig(init=InitConfig(model=str(student_dir)), peft=PeftSection(r=2, dropout=0.1))
    settings = {"student_dir": student_dir, "data": data, "student": student, "teacher": tiny_teacher()}
    config = {**CONFIG, "eval_steps": None}
    run_training(tmp_path / "whole", config=config, **settings)
    with pytest.raises(Stop):
        run_training(tmp_path / "resumed", config=config, on_step=stop_after(5), **settings)
    assert run_training(tmp_path / "resumed", config=config, **settings).resumed_from_step == 4
    assert losses(tmp_path / "whole" / "metrics.jsonl") == losses(tmp_path / "resumed" / "metrics.jsonl")


@pytest.mark.parametrize("damage", ["no-seal", "truncated", "flipped", "missing", "seal-cut"])
def test_a_damaged_checkpoint_is_passed_over(
    tmp_path: Path, student_dir: Path, data: TokenDataset, uninterrupted: TrainResult, damage: str, capsys: Any
) -> None:
    with pytest.raises(Stop):
        resume(tmp_path, student_dir, data, on_step=stop_after(5))
    newest = tmp_path / "checkpoints" / "checkpoint-4"
    file = newest / "model.safetensors"
    if damage == "no-seal":
        (newest / checkpoints.SEAL_FILE).unlink()
    elif damage == "seal-cut":
        (newest / checkpoints.SEAL_FILE).write_bytes((newest / checkpoints.SEAL_FILE).read_bytes()[:50])
    elif damage == "truncated":
        file.write_bytes(file.read_bytes()[:-100])
    elif damage == "flipped":
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        file.write_bytes(bytes(content))
    else:
        (newest / "optimizer.pt").unlink()
    result = resume(tmp_path, student_dir, data, progress=Progress(terminal=False))
    assert result.resumed_from_step == 2
    said = capsys.readouterr().err
    assert "checkpoint-4 is passed over" in said and "resuming at step 2" in said
    assert losses(result.metrics) == losses(uninterrupted.metrics)


def test_only_the_newest_checkpoints_stay_and_hold_no_pickle_of_arguments(uninterrupted: TrainResult) -> None:
    root = uninterrupted.model.parent / "checkpoints"
    assert sorted(path.name for path in root.iterdir()) == ["checkpoint-6", "checkpoint-7"]
    assert not list(root.rglob("training_args.bin"))
    seal = json.loads((root / "checkpoint-7" / checkpoints.SEAL_FILE).read_text())
    assert seal["step"] == 7
    assert set(seal["files"]) == {p.name for p in (root / "checkpoint-7").iterdir()} - {checkpoints.SEAL_FILE}


def test_objective_parameters_are_in_checkpoints_and_not_in_the_student(uninterrupted: TrainResult) -> None:
    newest = uninterrupted.model.parent / "checkpoints" / "checkpoint-7"
    state = torch.load(newest / OBJECTIVE_STATE_FILE, weights_only=True)
    assert set(state) == {"gap", "sharpened"} and state["sharpened"]["steps"] == 7
    assert float(state["sharpened"]["factor"]) != 1.5  # it was trained
    for directory in (newest, uninterrupted.model):
        AutoModelForCausalLM.from_pretrained(directory)
        from safetensors import safe_open

        with safe_open(directory / "model.safetensors", "pt") as file:
            assert not [name for name in file.keys() if "objectives" in name]  # noqa: SIM118
    assert not (uninterrupted.model.parent / "objectives").exists()


def test_a_finished_training_is_exported_again_without_a_step(
    tmp_path: Path, student_dir: Path, data: TokenDataset, uninterrupted: TrainResult
) -> None:
    shutil.copytree(uninterrupted.model.parent, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "model")
    seen: list[int] = []
    result = resume(tmp_path / "run", student_dir, data, on_step=lambda step, metrics: seen.append(step))
    assert seen == [] and result.resumed_from_step == 7
    mine, whole = weights(result), weights(uninterrupted)
    assert all(torch.equal(mine[name], whole[name]) for name in whole)
    assert losses(result.metrics) == losses(uninterrupted.metrics)


def test_a_checkpoint_of_another_training_is_refused(
    tmp_path: Path, student_dir: Path, data: TokenDataset, uninterrupted: TrainResult
) -> None:
    shutil.copytree(uninterrupted.model.parent, tmp_path / "run")
    with pytest.raises(TrainingError, match=r"checkpoint-7 is of another training: train changed"):
        resume(tmp_path / "run", student_dir, data, config={**CONFIG, "learning_rate": 3e-3})
    with pytest.raises(TrainingError, match="seed changed"):
        resume(tmp_path / "run", student_dir, data, seed=4)
    # how a step is split, and how often things are saved, changes no number
    other = {**CONFIG, "batch_sequences": 4, "accumulation_steps": 1, "save_steps": 3, "eval_steps": None}
    assert resume(tmp_path / "run", student_dir, data, config=other).resumed_from_step == 7


def test_saving_less_often_counts_from_the_resumption(tmp_path: Path, student_dir: Path, data: TokenDataset) -> None:
    with pytest.raises(Stop):
        resume(tmp_path, student_dir, data, on_step=stop_after(3))
    resume(tmp_path, student_dir, data, config={**CONFIG, "save_steps": 5, "keep_checkpoints": 9})
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["checkpoint-2", "checkpoint-5", "checkpoint-7"]


def test_metrics_are_cut_to_the_checkpoint_and_half_lines_dropped(tmp_path: Path) -> None:
    file = MetricsFile(tmp_path / "metrics.jsonl")
    for step in (1, 2, 3):
        file.append({"step": step})
    with open(file.path, "a") as handle:
        handle.write('{"step": 4, "lo')
    file.keep_until(2)
    assert file.path.read_text() == '{"step": 1}\n{"step": 2}\n'


def test_a_directory_is_whole_or_as_it_was(tmp_path: Path) -> None:
    target = tmp_path / "model"
    with checkpoints.whole_directory(target) as temporary:
        (temporary / "a").write_text("old")
    with pytest.raises(Stop), checkpoints.whole_directory(target) as temporary:
        (temporary / "a").write_text("new")
        raise Stop
    assert (target / "a").read_text() == "old"
    with checkpoints.whole_directory(target) as temporary:
        (temporary / "b").write_text("new")
    assert [path.name for path in target.iterdir()] == ["b"]
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
