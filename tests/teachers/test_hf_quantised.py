"""A teacher quantised by bitsandbytes itself, on the CPU: its targets are its own, near those of the plain one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from distill_core.engine.data import TokenSequence, collate
from distill_core.store import sequence_key
from distill_core.types import Needs, SparseSpec, TokenBatch
from distill_teachers.hf import HFTeacher
from distill_teachers.options import HFOptions
from tests.conftest import make_tiny_llama

NEEDS = Needs(frozenset({"targets"}), ("exact",), (1.0,))


@pytest.fixture
def directory(tmp_path: Path, tiny_tokenizer: Any) -> Path:
    """Wide enough for whole blocks of quantised weights."""
    make_tiny_llama(vocab_size=len(tiny_tokenizer), seed=4, hidden_size=128, intermediate_size=256).save_pretrained(
        tmp_path
    )
    tiny_tokenizer.save_pretrained(tmp_path)
    return tmp_path


def batch() -> TokenBatch:
    import numpy as np

    ids = np.arange(3, 40, dtype=np.int32)
    return collate([TokenSequence(ids, ids, "d", sequence_key(ids))])


@pytest.mark.slow
@pytest.mark.parametrize(("bits", "near"), [("8bit", 0.1), ("4bit", 0.7)])
def test_targets_of_a_quantised_teacher(directory: Path, bits: Any, near: float) -> None:
    """Against a dense forward pass of the very model. From the plain one it differs by a share of the spread of the
    log-probabilities: 0.06 and 0.58 were found for these random weights, which are steeper than trained ones."""
    plain, small = (
        HFTeacher(HFOptions(model=str(directory), device="cpu", dtype="float32", quantization=q)) for q in (None, bits)
    )
    found = small.signals(batch(), NEEDS, SparseSpec("topk", 8)).target
    assert found is not None
    with torch.no_grad():
        own_TV = small.model(batch().input_ids_BT).logits[0, :-1].float().log_softmax(1)
        plain_TV = plain.model(batch().input_ids_BT).logits[0, :-1].log_softmax(1)
    torch.testing.assert_close(found.log_probs()[:, :-1], own_TV.gather(1, found.ids_NK), atol=2e-3, rtol=0)
    gap = float((own_TV - plain_TV).std() / plain_TV.std())
    assert 0 < gap < near
    assert type(small.model.model.layers[0].mlp.up_proj).__module__.startswith("bitsandbytes")
    assert type(small.model.get_output_embeddings()) is torch.nn.Linear
    assert small.identity() == f"{plain.identity()} ({bits} by bitsandbytes)"
    held = [sum(p.numel() * p.element_size() for p in one.model.model.layers.parameters()) for one in (small, plain)]
    assert held[0] < held[1] / (3 if bits == "8bit" else 6)


@pytest.mark.slow
def test_a_thinned_teacher_is_cut_before_it_is_quantised(directory: Path, tmp_path: Path) -> None:
    cache = str(tmp_path / "cache")
    options = HFOptions(model=str(directory), device="cpu", layers=[1], quantization="4bit", cache_dir=cache)
    model = HFTeacher(options).model
    assert len(model.model.layers) == 1
    assert type(model.model.layers[0].mlp.up_proj).__module__.startswith("bitsandbytes")


def test_without_the_package_it_says_what_to_install(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    said = HFOptions(model=str(directory), quantization="4bit").problems()
    assert said == [
        "quantization: 4bit needs the package bitsandbytes: pip install 'distill-teachers[bitsandbytes]', or leave "
        "quantization out"
    ]
    assert HFOptions(model=str(directory)).problems() == []
