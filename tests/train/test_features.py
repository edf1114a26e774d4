"""Feature-level objectives in a training: a student of other depth, width and heads, checkpoints and export."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from distill_core.engine.data import TokenDataset
from distill_core.engine.whole_checkpoints import OBJECTIVE_STATE_FILE
from distill_core.registry import get_registry
from distill_teachers.hf import HFTeacher
from tests.conftest import make_tiny_llama
from tests.train.setting import numbers_tokenizer, objectives, run_training

EVERY = (
    {"use": "hidden-mse", "layers": "learned"},
    {"use": "hidden-cosine"},
    {"use": "hidden-cka", "within": "sequence"},
    {"use": "hidden-relational", "within": "sequence"},
    {"use": "hidden-contrastive", "within": "sequence", "dimensions": 8},
    {"use": "attention-maps"},
    {"use": "minilm"},
    {"use": "minilm-v2"},
)
LEARNING = {"hidden-mse", "hidden-cosine", "hidden-contrastive"}


def teacher() -> HFTeacher:
    other = make_tiny_llama(seed=7, hidden_size=48, num_hidden_layers=3, num_attention_heads=6, num_key_value_heads=3)
    return HFTeacher.from_model(other, numbers_tokenizer())


def train_all(directory: Path, student_dir: Path, data: TokenDataset, batch: int, steps: int, lr: float) -> list[dict]:
    config = {
        "teacher": "live",
        "objectives": objectives(*({**one} for one in EVERY)),
        "max_steps": steps,
        "save_steps": steps,
        "batch_sequences": batch,
        "accumulation_steps": 6 // batch,
        "learning_rate": lr,
    }
    run_training(
        directory, student_dir=student_dir, data=data, teacher=teacher(), registry=get_registry(), config=config
    )
    return [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]


def test_all_at_once_learn_and_leave_nothing_in_the_student(
    tmp_path: Path, student_dir: Path, data: TokenDataset
) -> None:
    lines = train_all(tmp_path, student_dir, data, 6, 12, 1e-2)
    first, last = lines[0]["objectives"], lines[-1]["objectives"]
    assert set(first) == {one["use"] for one in EVERY}
    assert lines[-1]["loss"] < lines[0]["loss"]
    newest = tmp_path / "checkpoints" / "checkpoint-12"
    state = torch.load(newest / OBJECTIVE_STATE_FILE, weights_only=True)
    assert {name for name, own in state.items() if own} == LEARNING
    assert set(state["hidden-mse"]) == {"layer_scores", "projections.0.weight", "projections.1.weight"}
    assert bool(state["hidden-mse"]["layer_scores"].ne(0).all())  # they were trained
    for directory in (newest, tmp_path / "model"):
        AutoModelForCausalLM.from_pretrained(directory)
        kept = load_file(directory / "model.safetensors")
        assert set(kept) == set(make_tiny_llama().state_dict())
    assert all(last[name] < first[name] for name in ("hidden-cosine", "minilm-v2"))


def test_accumulation_gives_the_step_of_one_batch(tmp_path: Path, student_dir: Path, data: TokenDataset) -> None:
    """Within sequences and per position every one of them is a sum: 6 x 1 is 1 x 6, up to fp32 rounding."""
    whole, cut = (train_all(tmp_path / str(size), student_dir, data, size, 1, 1e-3)[0] for size in (6, 1))
    assert cut["objectives"] == pytest.approx(whole["objectives"], rel=2e-5)
    assert cut["loss"] == pytest.approx(whole["loss"], rel=2e-5)
