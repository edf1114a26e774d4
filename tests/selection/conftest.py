"""Pools in memory, tiny models as features, and run files with a selection."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distill_core.config import StudentConfig
from distill_core.engine.data import IGNORE, TokenSequence
from distill_core.engine.features import Features
from distill_core.engine.progress import Progress
from distill_core.interfaces import Budget, SelectionContext
from distill_core.store import sequence_key
from tests.conftest import make_tiny_llama

VOCABULARY = 97


def sequence(
    ids: Any, *, document: str = "d", domain: str = "", prompt: int = 0, label: int | None = None, **changes: Any
) -> TokenSequence:
    """One sequence; the first ``prompt`` tokens are not predicted; ``label``: a class at the last token instead."""
    ids = np.asarray(ids, dtype=np.int32)
    labels = ids.copy()
    labels[:prompt] = IGNORE
    if label is not None:
        labels = np.full(len(ids), IGNORE, dtype=np.int32)
        labels[-1] = label
    key = sequence_key(ids)
    return TokenSequence(ids, labels, document, key, domain=domain, next_token=label is None, **changes)


def token_pool(count: int, *, seed: int = 0, prompt: int = 0, longest: int = 9) -> list[TokenSequence]:
    """Sequences of 3 to ``longest`` random tokens, so that batches have padding."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(3, longest + 1, count)
    return [
        sequence(rng.integers(3, VOCABULARY, n), document=f"d{i}", domain="ab"[i % 2], prompt=min(prompt, n - 2))
        for i, n in enumerate(lengths)
    ]


class FixedFeatures:
    """Stands for the features of a model: the numbers are given."""

    def __init__(self, hidden: Any = None) -> None:
        self.values = np.asarray(hidden, dtype=np.float32)

    def hidden(self, sequences: Any) -> Any:
        return self.values


def context(pool: list[TokenSequence], directory: Path, **changes: Any) -> SelectionContext:
    """What a selector is given, with a budget of the whole pool unless said otherwise."""
    given: dict[str, Any] = {
        "target": None,
        "budget": Budget(sequences=len(pool)),
        "labels": (),
        "seed": 0,
        "features": FixedFeatures(),
        "directory": directory,
        "say": lambda text: None,
    }
    return SelectionContext(pool=pool, **{**given, **changes})


@pytest.fixture(scope="session")
def student_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("student")
    make_tiny_llama(vocab_size=VOCABULARY).save_pretrained(directory)
    return directory


@pytest.fixture
def model_features(student_dir: Path, tmp_path: Path) -> Callable[..., Features]:
    """Makes features of the tiny student below a directory of the test's own."""

    def make(**changes: Any) -> Features:
        given: dict[str, Any] = {
            "student": student_dir,
            "key": "tiny",
            "config": StudentConfig.model_validate({"init": {"model": str(student_dir)}}),
            "task": None,
            "batch_sequences": 3,
            "progress": Progress(quiet=True),
            "shard_rows": 4,
        }
        return Features(tmp_path / "features", **{**given, **changes})

    return make
