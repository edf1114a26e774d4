"""The model card: metadata that huggingface_hub reads, figures of the results, foreign text without markup."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from distill_core.engine.file_hashes import FileHashes
from distill_core.report import write_cards
from tests.report.fake_run import results, write_json, write_run


@pytest.fixture
def run(tmp_path: Path) -> Path:
    directory = write_run(tmp_path / "run")
    for name in ("student", "hard-labels"):
        model = directory / "train" / name / "model"
        write_json(model / "config.json", {"architectures": ["LlamaForCausalLM"], "model_type": "llama"})
    text = (directory / "run.yaml").read_text(encoding="utf-8")
    text = text.replace(
        "teacher: {use: hf, model: smollm2-135m-instruct}", "teacher: {use: hf, model: org/teacher-135M}"
    )
    (directory / "run.yaml").write_text(text, encoding="utf-8")
    return directory


def card(run: Path, name: str = "student") -> ModelCard:
    assert run / "train" / name / "model" / "README.md" in write_cards(run)
    return ModelCard.load(run / "train" / name / "model" / "README.md")


def test_metadata_is_read_by_the_hub_library(run: Path) -> None:
    data = card(run).data
    assert (data.library_name, data.pipeline_tag, data.base_model) == (
        "transformers",
        "text-generation",
        ["org/teacher-135M"],
    )
    assert {"distillation", "distill-core"} <= set(data.tags) and data.license is None
    found = {result.metric_type: result for result in data.eval_results}
    metrics = results()["models"]["student"]["metrics"]
    assert found.keys() == metrics.keys()
    for name, result in found.items():
        assert result.metric_value == metrics[name]["value"] and result.task_type == "text-generation"
    assert "14 documents" in found["cross_entropy"].dataset_name


def test_the_text_says_what_it_is_and_what_it_is_not(run: Path) -> None:
    text = card(run).text
    for expected in (
        "# quickstart, student",
        "The student beats hard-labels on both cross-entropy and KL to the teacher.",
        "distilled from `org/teacher-135M`",
        "licence is not recorded",
        "| Cross-entropy (nat/token, lower is better) |",
        "96 optimizer steps on 195,840 tokens.",
        "Objectives: `forward-kl`.",
        "AutoModelForCausalLM.from_pretrained",
        "What the figures do not show",
        "not the training seed",
    ):
        assert expected in text, expected
    baseline = card(run, "hard-labels").text
    assert "Objectives: `cross-entropy`." in baseline and "The student beats" not in baseline


def test_the_licence_of_a_local_teacher_is_taken_over(run: Path, tmp_path: Path) -> None:
    teacher = tmp_path / "teacher"
    teacher.mkdir()
    (teacher / "README.md").write_text("---\nlicense: apache-2.0\n---\n# T\n", encoding="utf-8")
    text = (run / "run.yaml").read_text(encoding="utf-8").replace("org/teacher-135M", str(teacher))
    (run / "run.yaml").write_text(text, encoding="utf-8")
    data = card(run).data
    assert data.license == "apache-2.0" and data.base_model is None, "a path is no id on the hub"
    assert str(tmp_path) not in (run / "train" / "student" / "model" / "README.md").read_text(encoding="utf-8")


def test_flags_stand_in_the_card(run: Path) -> None:
    path = run / "train" / "hard-labels" / "metrics.jsonl"
    path.write_text("\n".join(path.read_text(encoding="utf-8").splitlines()[:40]), encoding="utf-8")
    text = card(run).text
    assert "**No claim can be made: One problem must be mended first.**" in text
    assert "- **error**: The baseline hard-labels was trained on less: 40 steps" in text


def test_not_evaluated_and_odd_values(run: Path) -> None:
    found = results()
    found["models"]["student"]["metrics"]["cross_entropy"]["value"] = None
    found["models"]["student"]["metrics"]["perplexity"]["value"] = "inf"
    write_json(run / "evaluate" / "results.json", found)
    assert all(math.isfinite(result.metric_value) for result in card(run).data.eval_results)
    (run / "evaluate" / "results.json").unlink()
    bare = card(run)
    assert "Not evaluated yet." in bare.text and bare.data.eval_results is None


def test_foreign_text_brings_no_markup(run: Path) -> None:
    hostile = "<script>alert(1)</script> [a](javascript:b) | `x`\n---\nlicense: evil\n# H\x00\u202e"
    found = results()
    for model in found["models"].values():
        model["metrics"]["cross_entropy"]["label"] = hostile
    write_json(run / "evaluate" / "results.json", found)
    (run / "run.yaml").write_text(
        f"name: {json.dumps(hostile)}\ntrain: {{objectives: [{{use: x}}]}}\n", encoding="utf-8"
    )
    loaded = card(run)
    assert loaded.data.license is None
    for raw in ("<script", "[a](javascript", "\x00", "\u202e", "\n# H"):
        assert raw not in loaded.text, raw


def test_other_architectures_have_their_own_pipeline(run: Path) -> None:
    model = run / "train" / "student" / "model"
    write_json(model / "config.json", {"architectures": ["BertForSequenceClassification"]})
    assert card(run).data.pipeline_tag == "text-classification"
    write_json(model / "config.json", {"architectures": ["Odd"]})
    assert card(run).data.pipeline_tag is None


def test_a_card_changes_nothing_that_depends_on_the_model(run: Path) -> None:
    """A run that learns from this student is not repeated because its card was written."""
    model = run / "train" / "student" / "model"
    before: Any = FileHashes().content("teacher", str(model))
    write_cards(run)
    assert FileHashes().content("teacher", str(model)) == before
