"""Tiny classifiers of every kind, their data, and run files on them."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    BertForTokenClassification,
    LlamaConfig,
    LlamaForSequenceClassification,
    ResNetConfig,
    ResNetForImageClassification,
    ViTConfig,
    ViTForImageClassification,
)

COLOURS = ("red", "green", "blue")
WORDS = {"red": "cherry rose brick", "green": "grass leaf moss", "blue": "sea sky ink"}
"""Words that give the class away, so that a tiny model can learn it."""

SIDE = 8
"""Pixels of the tiny images."""


def names(labels: tuple[str, ...]) -> dict[str, Any]:
    return {
        "num_labels": len(labels),
        "id2label": dict(enumerate(labels)),
        "label2id": {label: index for index, label in enumerate(labels)},
    }


TEXT_SIZE: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "initializer_range": 0.2,
}
VIT_SIZE: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": SIDE,
    "patch_size": 4,
    "num_channels": 1,
    "initializer_range": 0.2,
}
RESNET_SIZE: dict[str, Any] = {
    "num_channels": 1,
    "embedding_size": 8,
    "hidden_sizes": [8, 16],
    "depths": [1, 1],
    "layer_type": "basic",
}


def make_model(kind: str, *, labels: tuple[str, ...] = COLOURS, seed: int = 0, **changes: Any) -> Any:
    """A random fp32 classifier in eval mode: ``bert``, ``bert-tokens``, ``llama``, ``vit`` or ``resnet``."""
    text = {**TEXT_SIZE, "vocab_size": 320, "pad_token_id": 0, **names(labels), **changes}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: Any
        if kind == "bert":
            model = BertForSequenceClassification(BertConfig(**text))
        elif kind == "bert-tokens":
            model = BertForTokenClassification(BertConfig(**text))
        elif kind == "llama":
            model = LlamaForSequenceClassification(LlamaConfig(**{"num_key_value_heads": 2, **text}))
        elif kind == "vit":
            model = ViTForImageClassification(ViTConfig(**{**VIT_SIZE, **names(labels), **changes}))
        else:
            model = ResNetForImageClassification(ResNetConfig(**{**RESNET_SIZE, **names(labels), **changes}))
    return model.float().eval()


def text_records(count: int, seed: int) -> list[dict[str, Any]]:
    generator = np.random.default_rng(seed)
    records = []
    for index in range(count):
        label = COLOURS[index % len(COLOURS)]
        words = generator.choice(WORDS[label].split(), size=int(generator.integers(1, 6))).tolist()
        records.append({"text": " ".join(words), "label": label, "doc": f"d{index}"})
    return records


def word_records(count: int, seed: int) -> list[dict[str, Any]]:
    """Words of all colours mixed, a class each; every fourth word has none."""
    generator = np.random.default_rng(seed)
    records = []
    for index in range(count):
        labels = generator.choice(COLOURS, size=int(generator.integers(2, 7))).tolist()
        tokens = [str(generator.choice(WORDS[label].split())) for label in labels]
        shown = [None if position % 4 == 3 else label for position, label in enumerate(labels)]
        records.append({"tokens": tokens, "labels": shown, "doc": f"d{index}"})
    return records


def image_records(count: int, seed: int) -> list[dict[str, Any]]:
    """A bright third of the image for each class, on noise."""
    generator = np.random.default_rng(seed)
    records = []
    for index in range(count):
        image = generator.integers(0, 120, (SIDE, SIDE))
        start = (index % 3) * 3
        image[start : start + 2] += 120
        records.append({"image": image.tolist(), "label": COLOURS[index % 3], "doc": f"d{index}"})
    return records


TASKS: dict[str, dict[str, Any]] = {
    "bert": {"use": "sequence-classification", "labels": list(COLOURS)},
    "llama": {"use": "sequence-classification", "labels": list(COLOURS), "position": "last"},
    "bert-tokens": {"use": "token-classification", "labels": list(COLOURS)},
    "vit": {"use": "image-classification", "labels": list(COLOURS), "height": SIDE, "width": SIDE, "channels": 1},
}
TASKS["resnet"] = TASKS["vit"]
CONFIGS: dict[str, dict[str, Any]] = {
    "bert": {"model_type": "bert", **TEXT_SIZE},
    "bert-tokens": {"model_type": "bert", **TEXT_SIZE},
    "llama": {"model_type": "llama", "num_key_value_heads": 2, **TEXT_SIZE},
    "vit": {"model_type": "vit", **VIT_SIZE},
    "resnet": {"model_type": "resnet", **RESNET_SIZE},
}
RECORDS: dict[str, Callable[[int, int], list[dict[str, Any]]]] = {
    "bert": text_records,
    "llama": text_records,
    "bert-tokens": word_records,
    "vit": image_records,
    "resnet": image_records,
}
FIELDS = {"bert": ["label"], "llama": ["label"], "bert-tokens": ["tokens", "labels"], "vit": ["image", "label"]}
FIELDS["resnet"] = FIELDS["vit"]


class Bench:
    """A directory with data and a teacher of one kind, and run files on them."""

    def __init__(self, directory: Path, kind: str, tokenizer_dir: Path) -> None:
        self.directory, self.kind, self.tokenizer_dir = directory, kind, tokenizer_dir
        self.teacher = directory / "teacher"
        self.output = directory / "out"
        self.save_teacher(make_model(kind, seed=5))
        for split, count, seed in (("train", 24, 1), ("eval", 12, 2)):
            lines = [json.dumps(record) + "\n" for record in RECORDS[kind](count, seed)]
            (directory / f"{split}.jsonl").write_text("".join(lines), encoding="utf-8")

    def save_teacher(self, model: Any) -> None:
        model.save_pretrained(self.teacher)
        if "label" in FIELDS[self.kind] and "image" in FIELDS[self.kind]:
            return
        AutoTokenizer.from_pretrained(self.tokenizer_dir).save_pretrained(self.teacher)

    def source(self, split: str) -> dict[str, Any]:
        source = {"use": "jsonl", "path": str(self.directory / f"{split}.jsonl"), "document": "doc"}
        text = {"text": "text"} if RECORDS[self.kind] is text_records else {}
        return {"source": {**source, **text, "fields": FIELDS[self.kind]}}

    def run(self) -> dict[str, Any]:
        """Plain data of a good run file: capture, a student that learns from it, and hard labels."""
        return {
            "name": "task",
            "output_dir": str(self.output),
            "task": copy.deepcopy(TASKS[self.kind]),
            "teacher": {"use": "hf-classifier", "model": str(self.teacher)},
            "data": {"train": self.source("train"), "eval": self.source("eval"), "sequence_length_tokens": 32},
            "student": {"init": {"config": CONFIGS[self.kind]}},
            "capture": {"method": "topk", "k": 3},
            "train": {"max_steps": 3, "batch_sequences": 4, "learning_rate": 1e-2, "eval_steps": 3},
            "compare": {"hard": {"teacher": "none", "objectives": [{"use": "cross-entropy"}]}},
        }

    def write(self, change: Callable[[dict[str, Any]], Any] | None = None) -> Path:
        data = self.run()
        if change is not None:
            change(data)
        path = self.directory / "run.yaml"
        path.write_text(yaml.safe_dump(data, sort_keys=False), encoding="utf-8")
        return path

    def results(self) -> dict[str, Any]:
        return dict(json.loads((self.output / "evaluate" / "results.json").read_text(encoding="utf-8")))


@pytest.fixture
def bench(tmp_path: Path, tiny_tokenizer_dir: Path) -> Callable[[str], Bench]:
    """``bench(kind)``: a directory to run in."""
    return lambda kind: Bench(tmp_path, kind, tiny_tokenizer_dir)
