"""Short texts of three classes, tiny students that read them, and synthesizers on both."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
)

from distill_core.config import ComponentRef, DataConfig, SplitConfig
from distill_core.engine.prepare import sequences_of
from distill_core.interfaces import SynthesisContext
from distill_core.registry import get_registry

COLOURS = ("red", "green", "blue")
WORDS = {"red": "cherry rose brick", "green": "grass leaf moss", "blue": "sea sky ink"}
SIZE: dict[str, Any] = {
    "vocab_size": 320,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
    "pad_token_id": 0,
}
QUICK: dict[str, Any] = {
    "texts": 3,
    "length_tokens": 12,
    "networks": 2,
    "network_steps": 4,
    "network_states": 2,
    "real_batch": 8,
    "wrong_label": "keep",
    "iterations": 4,
    "checkpoint_iterations": 2,
    "language_model": {"hidden_size": 16, "heads": 2, "layers": 1, "steps": 6, "batch": 8},
}
OWN: dict[str, dict[str, Any]] = {
    "gradient-matching-text": {"inner_steps": 2, "top_k": 20, "pool_rounds": 2},
    "generator-matching": {"samples": 4, "refresh_iterations": 3, "candidates": 3},
}
TASKS: dict[str, dict[str, Any] | None] = {
    "bert": {"use": "sequence-classification", "labels": list(COLOURS)},
    "llama": {"use": "sequence-classification", "labels": list(COLOURS), "position": "last"},
    "causal": None,
}


def text_records(count: int = 24, seed: int = 0) -> list[dict[str, Any]]:
    """Words that give their class away."""
    generator = np.random.default_rng(seed)
    records = []
    for index in range(count):
        label = COLOURS[index % 3]
        words = generator.choice(WORDS[label].split(), size=int(generator.integers(2, 5))).tolist()
        records.append({"text": " ".join(words), "label": label, "document": f"d{index}"})
    return records


def new_student(kind: str, seed: int, **changes: Any) -> Any:
    """Tiny, random from the seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        classes = {"num_labels": len(COLOURS)}
        if kind == "bert":
            return BertForSequenceClassification(BertConfig(**{**SIZE, **classes, **changes})).float()
        if kind == "llama":
            return LlamaForSequenceClassification(LlamaConfig(**{**SIZE, **classes, **changes})).float()
        return LlamaForCausalLM(LlamaConfig(**{**SIZE, "tie_word_embeddings": True, **changes})).float()


def context(
    tokenizer: Any, kind: str = "bert", seed: int = 0, task: Any = "of the kind", **changes: Any
) -> SynthesisContext:
    """What the engine would give, on these texts."""
    build = get_registry().build
    given = TASKS[kind] if task == "of the kind" else task
    task = None if given is None else build("task", given)
    split = SplitConfig(source=ComponentRef(use="jsonl"))
    data = DataConfig(train=split, eval=split, sequence_length_tokens=32)
    return SynthesisContext(
        seed,
        build,
        lambda name: None,
        lambda: tokenizer,
        lambda text: None,
        task=task,
        student=lambda number: new_student(kind, number, **changes),
        sequences=lambda record: sequences_of(
            record, str(record.get("document", "")), tokenizer=tokenizer, data=data, task=task
        ),
    )


def make(name: str, ctx: SynthesisContext, **options: Any) -> Any:
    """A synthesizer, built."""
    made = get_registry().build("synthesizer", {"use": name, **QUICK, **OWN[name], **options})
    made.build(ctx)
    return made


def tokenizer_of(directory: Path | str) -> Any:
    return AutoTokenizer.from_pretrained(directory)


@pytest.fixture(scope="session")
def tokenizer(tiny_tokenizer_dir: Path) -> Any:
    return tokenizer_of(tiny_tokenizer_dir)
