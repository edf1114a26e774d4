"""Rows made from whole distributions in float64: what the store must give back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distill_core.store import RowArrays, StoreMeta, StoreReader, StoreWriter


def log_sum_exp(values: np.ndarray) -> np.ndarray:
    top = values.max(axis=1, initial=-np.inf)
    top = np.where(np.isfinite(top), top, 0.0)
    with np.errstate(divide="ignore"):
        return top + np.log(np.exp(values - top[:, None]).sum(axis=1))


def topk_rows(logits: np.ndarray, k: int, temperatures: tuple[float, ...]) -> RowArrays:
    ids = np.argsort(-logits, axis=1, kind="stable")[:, :k]
    rest = logits.copy()
    np.put_along_axis(rest, ids, -np.inf, axis=1)
    tail = np.stack([log_sum_exp(rest / t) for t in temperatures], axis=1)
    return RowArrays(
        kind="exact", ids=ids, temperatures=temperatures, logits=np.take_along_axis(logits, ids, axis=1), tail=tail
    )


def threshold_rows(logits: np.ndarray, k: int, seed: int = 0) -> RowArrays:
    """Threshold sampling in plain float64: c by bisection on its definition, systematic sampling of the rest."""
    generator = np.random.default_rng(seed)
    ids, weights, thresholds, entropies = [], [], [], []
    for row in logits:
        logp = row - log_sum_exp(row[None])[0]
        p = np.exp(logp)
        entropies.append(-float((p[p > 0] * logp[p > 0]).sum()))
        possible = int((p > 0).sum())
        kept = np.zeros(k, dtype=np.int64) - 1
        w = np.zeros(k)
        if possible <= k:
            kept[:possible], w[:possible] = np.flatnonzero(p > 0), p[p > 0]
            thresholds.append(0.0)
        else:
            order = np.argsort(-p, kind="stable")
            rest = np.cumsum(p[order][::-1])[::-1]
            head = next(h for h in range(k) if p[order[h]] <= rest[h] / (k - h))
            c = rest[head] / (k - head)
            steps = np.cumsum(p[order[head:]]) / c
            picks = head + np.searchsorted(steps, generator.random() + np.arange(k - head)).clip(max=p.size - head - 1)
            chosen = np.concatenate([order[:head], order[picks]]).astype(np.int64)
            kept[: chosen.size], w[: chosen.size] = chosen, np.where(np.arange(chosen.size) < head, p[chosen], c)
            thresholds.append(c)
        ids.append(kept)
        weights.append(w)
    return RowArrays(
        kind="sampled",
        ids=np.stack(ids),
        temperatures=(1.0,),
        weights=np.stack(weights),
        entropy=np.array(entropies),
        threshold=np.array(thresholds),
    )


def multinomial_rows(logits: np.ndarray, k: int, seed: int = 0) -> RowArrays:
    generator = np.random.default_rng(seed)
    ids = np.full((len(logits), k), -1, dtype=np.int64)
    weights = np.zeros((len(logits), k))
    entropy = np.zeros(len(logits))
    for n, row in enumerate(logits):
        p = np.exp(row - log_sum_exp(row[None])[0])
        counts = generator.multinomial(k, p / p.sum())
        drawn = generator.permutation(np.flatnonzero(counts))
        ids[n, : drawn.size], weights[n, : drawn.size] = drawn, counts[drawn] / k
        entropy[n] = -(p[p > 0] * np.log(p[p > 0])).sum()
    return RowArrays(kind="sampled", ids=ids, temperatures=(1.0,), weights=weights, entropy=entropy)


MAKERS: dict[str, Callable[..., RowArrays]] = {
    "topk": lambda logits, k, seed=0, temperatures=(1.0,): topk_rows(logits, k, temperatures),
    "threshold": lambda logits, k, seed=0, temperatures=(1.0,): threshold_rows(logits, k, seed),
    "multinomial": lambda logits, k, seed=0, temperatures=(1.0,): multinomial_rows(logits, k, seed),
}


@pytest.fixture(scope="session")
def make_rows() -> dict[str, Callable[..., RowArrays]]:
    """Makers of rows by method: (logits [N, V], k, seed, temperatures)."""
    return MAKERS


@pytest.fixture(scope="session")
def meta_for() -> Callable[..., StoreMeta]:
    """A StoreMeta with small defaults."""

    def build(**changes: Any) -> StoreMeta:
        fields = {"vocabulary_size": 50, "tokenizer_fingerprint": "abc", "teacher": "tiny", "method": "topk", "k": 4}
        return StoreMeta(**{**fields, **changes})

    return build


@pytest.fixture
def through_store(tmp_path: Path) -> Callable[..., RowArrays]:
    """Write rows as one sequence, read them back."""

    def write_and_read(rows: RowArrays, meta: StoreMeta) -> RowArrays:
        directory = tmp_path / f"store-{len(list(tmp_path.iterdir()))}"
        ids = np.arange(len(rows) + 1) % meta.vocabulary_size
        with StoreWriter(directory, meta) as writer:
            writer.append(ids, np.arange(len(rows)), rows)
        return StoreReader(directory).rows(ids)

    return write_and_read


@pytest.fixture
def filled_store(tmp_path: Path, meta_for: Callable[..., StoreMeta]) -> Callable[..., tuple[Path, list[np.ndarray]]]:
    """A store of several random sequences and their tokens."""

    def fill(name: str = "store", *, n: int = 7, shard_sequences: int = 3, seed: int = 0, **changes: Any) -> Any:
        meta = meta_for(**changes)
        generator = np.random.default_rng(seed)
        sequences = [generator.integers(0, meta.vocabulary_size, size=9 + index) for index in range(n)]
        with StoreWriter(tmp_path / name, meta, shard_sequences=shard_sequences) as writer:
            for index, ids in enumerate(sequences):
                logits = generator.normal(size=(len(ids) - 1, meta.vocabulary_size)) * 3
                samples = [
                    MAKERS[meta.method](logits, meta.k, seed=100 * index + draw, temperatures=meta.temperatures)
                    for draw in range(meta.draws)
                ]
                writer.append(ids, np.arange(len(ids) - 1), samples)
        return tmp_path / name, sequences

    return fill
