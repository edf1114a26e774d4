"""Bytes per token, everything included, of rows shaped like a language model's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks.real_models import hidden_states, load_teacher
from benchmarks.real_text import documents, windows
from benchmarks.store_size import capture, stored
from distill_core.store import RowArrays, StoreMeta, StoreWriter, store_info
from distill_core.types import SparseSpec

V = 49_152


def language_like(n_rows: int, seed: int) -> np.ndarray:
    """[N, V] log-probabilities that fall as a power of the rank, sharper in some rows; low ids tend to be likely.

    How much is about as in SmolLM2-135M, where half of the 64 likeliest tokens have ids below 1,731 and four fifths
    below 6,085, the 64 hold 0.85 of the probability (here 0.85), and threshold sampling of 12 keeps 3.4 tokens with a
    value of their own (here 3.3).
    """
    generator = np.random.default_rng(seed)
    decay = generator.uniform(0.9, 2.1, size=(n_rows, 1))
    logits = -decay * np.log(np.arange(1, V + 1)) + generator.normal(size=(n_rows, V)) * 0.3
    logits[:, 0] += generator.exponential(2.0, size=n_rows)
    ids = np.argsort(generator.exponential(size=(n_rows, V)) * (np.arange(V) + 300.0) ** 1.3, axis=1)
    unsorted = logits.copy()
    np.put_along_axis(logits, ids, unsorted, axis=1)
    top = logits.max(axis=1, keepdims=True)
    return logits - top - np.log(np.exp(logits - top).sum(axis=1, keepdims=True))


targets = pytest.mark.parametrize(("method", "k", "limit"), [("topk", 64, 150.0), ("threshold", 12, 28.0)])


@targets
def test_bytes_per_token(tmp_path: Path, make_rows: dict, method: str, k: int, limit: float) -> None:
    meta = StoreMeta(vocabulary_size=V, tokenizer_fingerprint="f" * 32, teacher="teacher@revision", method=method, k=k)
    logits = language_like(32, seed=3)
    rows = make_rows[method](logits, k)
    repeated = RowArrays(
        **{
            name: np.tile(value, (8,) + (1,) * (value.ndim - 1))[:255] if isinstance(value, np.ndarray) else value
            for name, value in rows.__dict__.items()
        }
    )
    generator = np.random.default_rng(0)
    with StoreWriter(tmp_path / "s", meta, shard_sequences=16) as writer:
        for _ in range(16):
            order = generator.permutation(255)
            writer.append(generator.integers(0, V, size=256), np.arange(255), repeated[order])
    found = store_info(tmp_path / "s")
    assert found.n_rows == 16 * 255
    assert found.bytes_per_row <= limit, found.split_per_row


@pytest.fixture(scope="module")
def speeches() -> tuple[Tensor, Tensor, Tensor]:
    """48 windows of 128 tokens, the teacher's hidden states at all but their last, and its head.

    Fewer would cost more a row: a shard and the files beside it are 11 kB however few sequences they hold.
    """
    teacher, tokenizer = load_teacher()
    cut = windows(documents("speeches")[0][::40], tokenizer, 128)
    ids_BT = cut[torch.randperm(len(cut), generator=torch.Generator().manual_seed(0))[:48]]
    hidden_BTD = hidden_states(teacher, ids_BT).unflatten(0, ids_BT.shape)
    return ids_BT, hidden_BTD[:, :-1].flatten(0, 1), teacher.get_output_embeddings().weight


@pytest.mark.slow
@pytest.mark.assets
@targets
def test_bytes_per_token_of_the_packaged_teacher(
    speeches: tuple[Tensor, Tensor, Tensor], method: str, k: int, limit: float
) -> None:
    ids_BT, hidden_ND, weight_VD = speeches
    assert weight_VD.shape[0] == V
    spec = SparseSpec(method=method, k=k)
    (target,) = capture(hidden_ND, weight_VD, [spec])
    found = stored(target, spec, ids_BT, V)
    assert found["bytes_per_row"] <= limit, found
