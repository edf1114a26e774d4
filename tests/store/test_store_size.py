"""Bytes per token, everything included, of rows shaped like a language model's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from distill_core.store import RowArrays, StoreMeta, StoreWriter, store_info

V = 49_152


def language_like(n_rows: int, seed: int) -> np.ndarray:
    """[N, V] log-probabilities that fall as a power of the rank, sharper in some rows; low ids tend to be likely.

    How much is about as in SmolLM2-135M, where half of the 64 likeliest tokens have ids below 1,731 and four fifths
    below 6,085. More tokens stand out here than there: threshold sampling keeps 5 with a value of their own, not 3.4.
    """
    generator = np.random.default_rng(seed)
    decay = generator.uniform(1.0, 2.5, size=(n_rows, 1))
    logits = -decay * np.log(np.arange(1, V + 1)) + generator.normal(size=(n_rows, V)) * 0.3
    logits[:, 0] += generator.exponential(2.0, size=n_rows)
    ids = np.argsort(generator.exponential(size=(n_rows, V)) * (np.arange(V) + 300.0) ** 1.3, axis=1)
    unsorted = logits.copy()
    np.put_along_axis(logits, ids, unsorted, axis=1)
    top = logits.max(axis=1, keepdims=True)
    return logits - top - np.log(np.exp(logits - top).sum(axis=1, keepdims=True))


@pytest.mark.parametrize(("method", "k", "limit"), [("topk", 64, 150.0), ("threshold", 12, 30.0)])
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
    assert found.bytes_per_row < limit, found.split_per_row
