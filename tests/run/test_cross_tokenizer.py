"""Runs of a student in another vocabulary: captured and live, judged in bits per byte, refused where nothing fits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import SENTENCES
from tests.run.conftest import Workshop, write_rows
from tests.run.test_end_to_end import inside, manifest
from tests.teachers.tokenizers_of_two_kinds import sentencepiece

STUDENT = {
    "model_type": "llama",
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 64,
}
HARD = [{"use": "cross-entropy"}]


@pytest.fixture
def crossed(tmp_path: Path, tiny_model_dir: Path) -> Workshop:
    workshop = Workshop(tmp_path, tiny_model_dir)
    sentencepiece(opens=False).save_pretrained(tmp_path / "sentencepiece")
    write_rows(tmp_path / "train.jsonl", list(SENTENCES))
    write_rows(tmp_path / "eval.jsonl", list(reversed(SENTENCES)))
    workshop.good["student"] = {"tokenizer": str(tmp_path / "sentencepiece"), "init": {"config": STUDENT}}
    workshop.good["capture"] = {"method": "topk", "k": 8}
    workshop.good["train"].update(vocabulary={"use": "byte-span"}, eval_steps=3)
    workshop.good["train"]["objectives"] = [{"use": "forward-kl"}, *HARD]
    return workshop


def results(workshop: Workshop) -> dict[str, Any]:
    return dict(json.loads((workshop.output / "evaluate" / "results.json").read_text(encoding="utf-8")))


def test_captured_and_live(crossed: Workshop) -> None:
    """Both objectives that cross tokenizers and the baseline; the teacher's own figures are left out by name."""
    crossed.good["compare"] = {
        "no-teacher": {"teacher": "none", "objectives": HARD},
        "ranked": {
            "teacher": "live",
            "vocabulary": {"use": "shared-vocabulary"},
            "objectives": [{"use": "universal-logit", "k": 8}, *HARD],
        },
    }
    done = inside("run", crossed.write())
    assert done.returncode == 0, done.stderr
    assert "aligner byte-span()" in manifest(crossed, "capture:main")["notes"]["vocabulary"]
    assert "through byte-span()" in manifest(crossed, "capture:main")["notes"]["teacher"]
    assert "nothing to do here" in manifest(crossed, "train:student")["notes"]["vocabulary"]
    assert "aligner shared-vocabulary()" in manifest(crossed, "train:ranked")["notes"]["vocabulary"]
    found = results(crossed)
    assert set(found["models"]) == {"student", "no-teacher", "ranked"}
    assert all("bits_per_byte" in model["metrics"] for model in found["models"].values())
    (missing,) = found["not_measured"]
    assert missing["evaluator"] == "fidelity" and "another tokenizer" in missing["reason"]
    assert any("bits_per_byte compares across tokenizers" in warning for warning in found["warnings"])
    metrics = (crossed.output / "train" / "ranked" / "metrics.jsonl").read_text(encoding="utf-8")
    assert '"universal-logit"' in metrics
    assert (crossed.output / "report" / "index.html").is_file()


def test_another_aligner_captures_again(crossed: Workshop) -> None:
    assert inside("capture", crossed.write()).returncode == 0
    changed = crossed.write(lambda run: run["train"].update(vocabulary={"use": "shared-vocabulary"}))
    again = inside("capture", changed)
    assert again.returncode == 0, again.stderr
    assert "byte-span" in again.stderr and "shared-vocabulary" in again.stderr  # says what changed
    assert "through shared-vocabulary()" in manifest(crossed, "capture:main")["notes"]["teacher"]


WRONG = {
    "align": (lambda run: run["train"].update(vocabulary="align"), "align says not how: name an aligner"),
    "unknown": (lambda run: run["train"].update(vocabulary={"use": "byte-spam"}), "byte-span"),
    "option": (lambda run: run["train"].update(vocabulary={"use": "byte-span", "k": 3}), "train.vocabulary.k"),
    "sampled": (
        lambda run: run["capture"].update(method="threshold"),
        "threshold draws a sample, but the aligner teachers:byte-span translates exact targets alone",
    ),
    "temperature": (
        lambda run: run["capture"].update(temperatures=[1.0, 2.0]),
        "the aligner teachers:byte-span answers at [1.0], not at [2.0]",
    ),
    "hidden states": (
        lambda run: run["train"].update(teacher="live", objectives=[{"use": "hidden-mse"}]),
        "needs hidden_states, but the live teacher teachers:hf through the aligner teachers:byte-span gives",
    ),
    "no aligner": (
        lambda run: run["train"].update(teacher="live", vocabulary="error", objectives=[{"use": "universal-logit"}]),
        "universal-logit needs ranked_log_probs",
    ),
    "two readers": (
        lambda run: run.update(compare={"other": {"vocabulary": {"use": "shared-vocabulary"}}}),
        "the capture 'main' is made through the aligner teachers:byte-span, but other reads it with another",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_use(case: str, crossed: Workshop) -> None:
    change, said = WRONG[case]
    result = inside("validate", crossed.write(change))
    assert result.returncode == 2 and said in result.stderr and "Traceback" not in result.stderr, result.stderr


def test_without_an_aligner_the_message_names_the_way_out(crossed: Workshop) -> None:
    result = inside("capture", crossed.write(lambda run: run["train"].update(vocabulary="error")))
    assert result.returncode == 2 and "name an aligner (train.vocabulary: {use: ...})" in result.stderr
