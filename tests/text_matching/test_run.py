"""Texts matched in a run: what the stage is given, what makes it again, and that a student is new for every seed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from distill_core.config import StudentConfig
from distill_core.engine.progress import Progress
from distill_core.engine.run import run
from distill_core.engine.student import initialise_student, load_student, new_student
from distill_core.registry import get_registry
from tests.run.conftest import Workshop


@pytest.fixture
def tiny(tmp_path: Path, tiny_model_dir: Path) -> Workshop:
    workshop = Workshop(tmp_path, tiny_model_dir)
    workshop.good["synthesize"] = {
        "use": "gradient-matching-text",
        "texts": 3,
        "length_tokens": 8,
        "iterations": 2,
        "inner_steps": 1,
        "networks": 1,
        "network_steps": 2,
        "network_states": 1,
    }
    return workshop


def done(workshop: Workshop, *overrides: str) -> dict[str, str]:
    checked = workshop.check(None, *overrides)
    result = run(checked, registry=get_registry(), progress=Progress(quiet=True), upto="data")
    return {outcome.stage: outcome.action for outcome in result.outcomes}


def written(workshop: Workshop) -> list[dict[str, Any]]:
    lines = (workshop.output / "synthesize" / "records.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def test_a_run_reads_what_was_written_and_makes_it_again_for_another_student(tiny: Workshop) -> None:
    assert done(tiny)["synthesize"] == "ran"
    first = written(tiny)
    assert len(first) == 3
    data = json.loads((tiny.output / "data" / "train" / "data.json").read_text())
    assert data["sequences"] == 3
    assert done(tiny)["synthesize"] == "reused"
    assert done(tiny, "train.learning_rate=0.5")["synthesize"] == "reused"
    for change in ("student.init.from_teacher.layers=[1]", "data.sequence_length_tokens=20"):
        assert done(tiny, change)["synthesize"] == "ran", change
    done(tiny)
    assert written(tiny) == first


def test_new_students_are_those_of_the_stage(tiny_model_dir: Path, tmp_path: Path) -> None:
    """By seed, in memory as on disk; the random state of torch is left as it was."""
    made = {"model_type": "llama", "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    config = StudentConfig.model_validate(
        {"init": {"config": {**made, "num_attention_heads": 2}}, "tokenizer": str(tiny_model_dir), "dtype": "bfloat16"}
    )
    before = torch.get_rng_state()
    one, again, other = (new_student(config, teacher_source=None, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), before)
    assert one.dtype == torch.float32
    initialise_student(
        config.model_copy(update={"dtype": "float32"}), teacher_source=None, directory=tmp_path / "s", seed=3
    )
    stored = load_student(tmp_path / "s", config.model_copy(update={"dtype": "float32"}))
    for (name, p), q, r, s in zip(
        one.named_parameters(), again.parameters(), other.parameters(), stored.parameters(), strict=True
    ):
        assert torch.equal(p, q) and torch.equal(p, s), name
        assert torch.equal(p, r) is ("norm" in name), name
