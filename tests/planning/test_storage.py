"""Sizes of stores against a real one, and against the committed measurement."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.result import load
from benchmarks.tables import RESULTS
from distill_core.errors import DistillError
from distill_core.planning.storage import MEASURED, bytes_per_position, storage_figures
from distill_core.store import RowArrays, StoreMeta, StoreWriter, store_info
from tests.store.conftest import threshold_rows, topk_rows
from tests.store.test_store_size import V, language_like


def test_the_table_is_the_committed_measurement() -> None:
    found: dict[str, dict[int, float]] = {}
    for one in load(RESULTS / "store_size.json")["measurements"]:
        found.setdefault(one["method"], {})[one["k"]] = round(one["bytes_per_row"], 1)
    assert found == MEASURED


def test_between_and_beyond_the_measured_k() -> None:
    for method, table in MEASURED.items():
        known = sorted(table)
        values = [bytes_per_position(method, k) for k in range(1, 2 * known[-1])]
        assert values == sorted(values)
        assert bytes_per_position(method, known[0]) == table[known[0]]
    figures = {figure.key: figure for figure in storage_figures([("topk", 1000), ("topk", 64)], 1e6, 128_256)}
    assert "k 1000 outside the measured 4 to 256" in figures["store_topk_1000"].outside
    assert "vocabulary" in figures["store_topk_64"].outside[0]
    assert figures["store_topk_64"].value == 146.3e6
    assert figures["store_dense"].value == 4 * 128_256 * 1e6


@pytest.mark.parametrize(("method", "k"), [("topk", 24), ("topk", 64), ("threshold", 12), ("threshold", 24)])
def test_a_store_of_other_rows_costs_about_as_much(tmp_path: Path, method: str, k: int) -> None:
    """Made-up rows of a language model's shape, and k that were not measured: within a fifth of the estimate."""
    make = {"topk": lambda logits: topk_rows(logits, k, (1.0,)), "threshold": lambda logits: threshold_rows(logits, k)}
    rows = make[method](language_like(32, seed=3))
    repeated = RowArrays(
        **{
            name: np.tile(value, (4,) + (1,) * (value.ndim - 1))[:127] if isinstance(value, np.ndarray) else value
            for name, value in vars(rows).items()
        }
    )
    meta = StoreMeta(vocabulary_size=V, tokenizer_fingerprint="f" * 32, teacher="t", method=method, k=k)  # type: ignore[arg-type]
    generator = np.random.default_rng(0)
    with StoreWriter(tmp_path / "store", meta, shard_sequences=16) as writer:
        for _ in range(16):
            writer.append(generator.integers(0, V, size=128), np.arange(127), repeated[generator.permutation(127)])
    found = store_info(tmp_path / "store").bytes_per_row
    print(f"{method}, k = {k}: {found:.1f} B a row, expected {bytes_per_position(method, k):.1f}")
    assert bytes_per_position(method, k) == pytest.approx(found, rel=0.2)


def test_wrong_values_are_named() -> None:
    with pytest.raises(DistillError, match=r"--method must be one of topk, threshold, multinomial, got 'top'"):
        bytes_per_position("top", 3)
    with pytest.raises(DistillError, match=r"--k must be at least 1, got 0"):
        bytes_per_position("topk", 0)
