"""What the teacher tests share: a small data set, a tiny teacher over it, needs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distill_core.engine.data import TokenSequence
from distill_core.store import sequence_key
from distill_core.types import Needs
from tests.conftest import make_tiny_llama

TARGETS = Needs(frozenset({"targets"}), targets=("exact", "sampled"), temperatures=(1.0,))


def sequence(ids: Any, *, masked: int = 0, document: str = "d") -> TokenSequence:
    """A sequence whose first ``masked`` tokens are a prompt."""
    input_ids = np.asarray(ids, dtype=np.int32)
    labels = input_ids.copy()
    labels[:masked] = -100
    return TokenSequence(input_ids, labels, document, sequence_key(input_ids))


def random_sequences(n: int, *, vocabulary: int, longest: int = 40, seed: int = 0) -> list[TokenSequence]:
    """Uneven lengths, some with a masked prompt."""
    generator = np.random.default_rng(seed)
    lengths = generator.integers(5, longest, size=n)
    return [
        sequence(generator.integers(3, vocabulary, size=length), masked=int(i % 3), document=f"doc-{i}")
        for i, length in enumerate(lengths)
    ]


@pytest.fixture(scope="session")
def tiny_tokenizer(tiny_tokenizer_dir: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_tokenizer_dir)


@pytest.fixture(scope="session")
def tiny_teacher(tiny_tokenizer: Any) -> Any:
    """A random Llama of the tiny tokenizer's vocabulary with 13 padding rows in its head."""
    from distill_teachers.hf import HFTeacher

    model = make_tiny_llama(vocab_size=len(tiny_tokenizer) + 13, seed=5)
    return HFTeacher.from_model(model, tiny_tokenizer, label="tiny teacher")
