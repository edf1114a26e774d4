"""Which models and data the evaluation stage takes: what it refuses, names or flags."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from distill_core.engine import evaluation
from distill_core.engine.data import TokenDataset
from distill_core.engine.evaluation import EvaluationTarget
from distill_core.errors import DataError, DistillError, PluginError, VocabularyError
from tests.conftest import make_tiny_llama
from tests.evaluation.conftest import write_sequences
from tests.evaluation.evaluating import run, targets, value


def test_nothing_to_evaluate_is_refused(models: Any, tokenizer: Any, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no sequences"):
        run(targets(models, tokenizer), write_sequences(tmp_path / "none", []), tmp_path)
    silent = write_sequences(tmp_path / "silent", [("a", [5, 9, 30], [False] * 3)])
    with pytest.raises(DataError, match="no token"):
        run(targets(models, tokenizer), silent, tmp_path)
    assert not (tmp_path / "results.json").exists()


def test_models_of_different_tokenizers_are_refused(
    models: Any, tokenizer: Any, held_out: TokenDataset, tmp_path: Path
) -> None:
    class Other:
        def get_vocab(self) -> dict[str, int]:
            return {"a": 0, "b": 1}

    chosen = targets(models, tokenizer)
    chosen["random"] = EvaluationTarget(models["random"], tokenizer=Other())
    with pytest.raises(VocabularyError, match=r"teacher, student / random"):
        run(chosen, held_out, tmp_path)


def test_two_teachers_are_refused(models: Any, tokenizer: Any, held_out: TokenDataset, tmp_path: Path) -> None:
    chosen = {name: EvaluationTarget(model, is_teacher=True, tokenizer=tokenizer) for name, model in models.items()}
    with pytest.raises(ValueError, match="at most one"):
        run(chosen, held_out, tmp_path)


def test_a_directory_is_loaded_and_weighed(tiny_model_dir: Path, held_out: TokenDataset, tmp_path: Path) -> None:
    found = run(
        {"student": EvaluationTarget(tiny_model_dir)}, held_out, tmp_path, evaluators=[{"use": "language-model"}]
    )
    size = (tiny_model_dir / "model.safetensors").stat().st_size
    assert found["models"]["student"]["bytes_on_disk"] == size
    assert found["models"]["student"]["source"] == str(tiny_model_dir)
    assert found["schema"] == evaluation.SCHEMA


def test_a_directory_without_a_model_is_named(held_out: TokenDataset, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DistillError, match=r"student cannot be loaded from .*empty"):
        run({"student": EvaluationTarget(tmp_path / "empty")}, held_out, tmp_path)


def test_two_evaluators_of_one_metric_are_refused(
    models: Any, tokenizer: Any, held_out: TokenDataset, tmp_path: Path
) -> None:
    twice = [{"use": "language-model"}, {"use": "language-model"}]
    with pytest.raises(PluginError, match="both measure 'cross_entropy'"):
        run(targets(models, tokenizer), held_out, tmp_path, evaluators=twice)


def test_a_broken_model_gives_no_figure_and_no_verdict(
    models: Any, tokenizer: Any, held_out: TokenDataset, tmp_path: Path
) -> None:
    broken = make_tiny_llama(vocab_size=len(tokenizer), seed=3)
    with torch.no_grad():
        broken.model.norm.weight.fill_(math.nan)
    found = run(targets({"teacher": models["teacher"], "student": broken}, tokenizer), held_out, tmp_path)
    assert found["models"]["student"]["metrics"]["forward_kl"]["value"] is None
    assert {c["verdict"] for c in found["comparisons"] if c["metric"] == "cross_entropy"} == {"undecidable"}
    assert found["models"]["teacher"]["metrics"]["cross_entropy"]["value"] > 0


class Shuffled:
    """A tokenizer's tokens under other ids; everything else is the tokenizer's."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer, vocabulary = tokenizer, tokenizer.get_vocab()
        order = np.random.default_rng(0).permutation(len(vocabulary)).tolist()
        self._vocabulary = {token: order[index] for token, index in vocabulary.items()}

    def get_vocab(self) -> dict[str, int]:
        return self._vocabulary

    def __len__(self) -> int:
        return len(self._tokenizer)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)


def test_a_shuffled_tokenizer_beside_a_student_is_flagged_and_not_used(
    models: Any, tokenizer: Any, held_out: TokenDataset, tmp_path: Path
) -> None:
    chosen = targets(models, tokenizer)
    honest = run(chosen, held_out, tmp_path / "honest", tokenizer=tokenizer)
    assert "shuffled-tokenizer" not in {flag["flag"] for flag in honest["flags"]}
    chosen["student"] = EvaluationTarget(models["student"], tokenizer=Shuffled(tokenizer))
    found = run(chosen, held_out, tmp_path / "shuffled", tokenizer=tokenizer)
    (flag,) = [flag for flag in found["flags"] if flag["flag"] == "shuffled-tokenizer"]
    assert flag["severity"] == "error" and flag["evidence"]["model"] == "student"
    assert value(found, "student", "cross_entropy") == value(honest, "student", "cross_entropy")
    assert value(found, "student", "bits_per_byte") == value(honest, "student", "bits_per_byte")
