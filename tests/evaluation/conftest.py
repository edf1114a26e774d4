"""Held-out sequences of a few documents, and three models of one tokenizer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from distill_core.engine.data import SCHEMA, SUMMARY_FILE, TOKENS_FILE, TokenDataset
from distill_core.store import sequence_key
from tests.conftest import SENTENCES, make_tiny_llama


def write_sequences(directory: Path, sequences: list[tuple[str, list[int], list[bool] | None]]) -> TokenDataset:
    """(document, ids, which of them are to be predicted) -> a data directory."""
    directory.mkdir(parents=True, exist_ok=True)
    columns = [
        pa.array([ids for _, ids, _ in sequences], pa.list_(pa.int32())),
        pa.array([predict for _, _, predict in sequences], pa.list_(pa.bool_())),
        pa.array([document for document, _, _ in sequences], pa.string()),
        pa.array([sequence_key(np.asarray(ids, dtype=np.int64)) for _, ids, _ in sequences], pa.binary(16)),
        pa.nulls(len(sequences), pa.list_(pa.float32())),
        pa.array([""] * len(sequences), pa.string()),
        pa.nulls(len(sequences), pa.float64()),
        pa.nulls(len(sequences), pa.list_(pa.int32())),
        pa.nulls(len(sequences), pa.string()),
    ]
    with pa.OSFile(str(directory / TOKENS_FILE), "wb") as sink, pa.ipc.new_file(sink, SCHEMA) as writer:
        writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=SCHEMA))
    (directory / SUMMARY_FILE).write_text(json.dumps({}), encoding="utf-8")
    return TokenDataset.open(directory)


@pytest.fixture(scope="session")
def tokenizer(tiny_tokenizer_dir: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_tokenizer_dir)


@pytest.fixture(scope="session")
def held_out(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> TokenDataset:
    """Nine sequences of five documents; one has a masked prompt, lengths differ."""
    sequences: list[tuple[str, list[int], list[bool] | None]] = []
    for index in range(9):
        ids = tokenizer(SENTENCES[index % len(SENTENCES)])["input_ids"][: 20 + 3 * index]
        predict = [position >= 7 for position in range(len(ids))] if index == 4 else None
        sequences.append((f"speech-{index % 5}", ids, predict))
    return write_sequences(tmp_path_factory.mktemp("held-out"), sequences)


@pytest.fixture(scope="session")
def models(tokenizer: Any) -> dict[str, Any]:
    """Teacher, a student that is nearly the teacher, a baseline that is another random model."""
    import torch

    teacher = make_tiny_llama(vocab_size=len(tokenizer), seed=0)
    student = make_tiny_llama(vocab_size=len(tokenizer), seed=0)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    return {"teacher": teacher, "student": student, "random": make_tiny_llama(vocab_size=len(tokenizer), seed=7)}
