"""Batch 8 x 1, 1 x 8 and two processes: the same loss and the same gradients."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from distill_core.engine.data import TokenDataset
from tests.conftest import REPOSITORY, make_tiny_llama
from tests.train.setting import save_student
from tests.train.worker import gradients

# fused on targets, free-form on hidden states with its own count and a learned map, fused on labels; "sharpened", a
# fused one with a parameter that is no module, joins them where nothing is sharded
OBJECTIVES: list[Any] = ["kl", {"use": "gap", "weight": 0.7}, {"use": "hard", "weight": 0.3}]
TOLERANCE = {"float64": 1e-12, "float32": 1e-5}
SPLITS = {"8x1": (8, 1), "1x8": (1, 8), "4x2": (4, 2)}


def settings_for(directory: Path, student_dir: Path, data: TokenDataset, **changes: Any) -> dict[str, Any]:
    directory.mkdir(parents=True, exist_ok=True)
    return {
        "directory": str(directory),
        "student_dir": str(student_dir),
        "data": str(data.directory),
        "objectives": OBJECTIVES,
        "dtype": "float64",
        "config": {"batch_sequences": 8, "accumulation_steps": 1},
        **changes,
    }


def step_loss(directory: Path) -> dict[str, Any]:
    (line,) = [json.loads(text) for text in (directory / "metrics.jsonl").read_text().splitlines()]
    return line


def launch(settings: dict[str, Any]) -> subprocess.CompletedProcess[str]:
    """Two gloo processes of the worker, by torchrun."""
    directory = Path(settings["directory"])
    file = directory / "settings.json"
    file.write_text(json.dumps(settings))
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--master_port=0"]
    command += ["--rdzv-backend=c10d", "--rdzv-endpoint=127.0.0.1:0", "-m", "tests.train.worker", str(file)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
    return subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=300)


def two_processes(settings: dict[str, Any]) -> dict[str, torch.Tensor]:
    done = launch(settings)
    assert done.returncode == 0, done.stderr[-10_000:]
    gradients: dict[str, torch.Tensor] = torch.load(Path(settings["directory"]) / "gradients.pt", weights_only=True)
    return gradients


def assert_equal_steps(
    first: tuple[dict[str, torch.Tensor], Path], second: tuple[dict[str, torch.Tensor], Path], tolerance: float
) -> None:
    (gradients_1, directory_1), (gradients_2, directory_2) = first, second
    assert set(gradients_1) == set(gradients_2)
    for name, expected in gradients_1.items():
        scale = max(1.0, float(expected.abs().max()))
        assert float((gradients_2[name] - expected).abs().max()) <= tolerance * scale, name
    assert all(float(value.abs().max()) > 0 for value in gradients_1.values())
    line_1, line_2 = step_loss(directory_1), step_loss(directory_2)
    assert line_1["loss"] == pytest.approx(line_2["loss"], rel=tolerance)
    assert line_1["objectives"] == pytest.approx(line_2["objectives"], rel=tolerance)
    assert line_1["tokens"] == line_2["tokens"]


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_accumulation_changes_nothing(tmp_path: Path, student_dir: Path, data: TokenDataset, dtype: str) -> None:
    found = {}
    for name, (batch, accumulation) in SPLITS.items():
        config = {"batch_sequences": batch, "accumulation_steps": accumulation}
        directory = tmp_path / name
        objectives = [*OBJECTIVES, "sharpened"]
        settings = settings_for(directory, student_dir, data, dtype=dtype, config=config, objectives=objectives)
        found[name] = (gradients(settings, directory), directory)
    assert_equal_steps(found["8x1"], found["1x8"], TOLERANCE[dtype])
    assert_equal_steps(found["8x1"], found["4x2"], TOLERANCE[dtype])


@pytest.mark.parametrize(
    ("strategy", "tied", "dtype"),
    [
        pytest.param("ddp", False, "float64", id="ddp-untied"),
        pytest.param("ddp", True, "float64", id="ddp-tied", marks=pytest.mark.slow),
        pytest.param("ddp", True, "float32", id="ddp-tied-float32", marks=pytest.mark.slow),
        pytest.param("fsdp2", False, "float64", id="fsdp2-untied", marks=pytest.mark.slow),
        pytest.param("fsdp2", True, "float64", id="fsdp2-tied"),
        pytest.param("fsdp2", True, "float32", id="fsdp2-tied-float32", marks=pytest.mark.slow),
    ],
)
def test_two_processes_change_nothing(
    tmp_path: Path, data: TokenDataset, strategy: str, tied: bool, dtype: str
) -> None:
    student_dir = save_student(tmp_path / "student", make_tiny_llama(seed=1, tie_word_embeddings=tied))
    names = [*OBJECTIVES, "sharpened"] if strategy == "ddp" else OBJECTIVES  # FSDP shards modules only
    one = settings_for(tmp_path / "one", student_dir, data, objectives=names, dtype=dtype)
    config = {"batch_sequences": 2, "accumulation_steps": 2}
    two = {**one, "directory": str(tmp_path / "two"), "config": config, "strategy": strategy}
    (tmp_path / "two").mkdir()
    expected = gradients(one, tmp_path / "one")
    assert_equal_steps((expected, tmp_path / "one"), (two_processes(two), tmp_path / "two"), TOLERANCE[dtype])


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_two_killed_processes_resume_bit_identically(
    tmp_path: Path, student_dir: Path, data: TokenDataset, strategy: str
) -> None:
    config = {"max_steps": 4, "batch_sequences": 2, "save_steps": 1, "learning_rate": 1e-2}
    common = {"config": config, "strategy": strategy, "whole_training": True}
    lines = {}
    for name, crash_after in (("whole", None), ("killed", 3)):
        directory = tmp_path / name
        settings = settings_for(directory, student_dir, data, crash_after=crash_after, **common)
        if crash_after is not None:
            assert launch(settings).returncode != 0
            assert sorted(p.name for p in (directory / "checkpoints").glob("checkpoint-*"))[-1] == "checkpoint-2"
            settings["crash_after"] = None
        done = launch(settings)
        assert done.returncode == 0, done.stderr[-10_000:]
        texts = (directory / "metrics.jsonl").read_text().splitlines()
        lines[name] = [{k: v for k, v in json.loads(t).items() if k != "tokens_per_s"} for t in texts]
    assert [line["step"] for line in lines["whole"]] == [1, 2, 3, 4]
    assert lines["killed"] == lines["whole"]
    whole, killed = (AutoModelForCausalLM.from_pretrained(tmp_path / name / "model").state_dict() for name in lines)
    assert all(torch.equal(whole[key], killed[key]) for key in whole)
