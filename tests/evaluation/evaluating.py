"""The evaluation stage, called for a test's models, and what it is compared with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.special import logsumexp

from distill_core.config import EvaluateConfig
from distill_core.engine.data import TokenDataset
from distill_core.engine.evaluation import EvaluationTarget, evaluate
from distill_core.registry import get_registry

ALL = [{"use": "language-model"}, {"use": "fidelity", "overlap_k": 4}, {"use": "calibration", "bins": 5}]


def targets(models: dict[str, Any], tokenizer: Any) -> dict[str, EvaluationTarget]:
    return {
        name: EvaluationTarget(model, is_teacher=name == "teacher", tokenizer=tokenizer)
        for name, model in models.items()
    }


def run(chosen: dict[str, EvaluationTarget], data: TokenDataset, directory: Path, **options: Any) -> dict[str, Any]:
    config = EvaluateConfig.model_validate(
        {"evaluators": options.pop("evaluators", ALL), "batch_sequences": options.pop("batch_sequences", 4)}
        | options.pop("config", {})
    )
    return evaluate(
        chosen,
        data=data,
        config=config,
        registry=get_registry(),
        directory=directory,
        measure_speed=options.pop("measure_speed", False),
        **options,
    )


def value(results: dict[str, Any], model: str, metric: str) -> float:
    return float(results["models"][model]["metrics"][metric]["value"])


def dense_rows(model: Any, data: TokenDataset) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Log-probabilities [N, V] in float64, labels [N], document of each row; one sequence at a time, no padding."""
    logp, labels, documents = [], [], []
    for sequence in data:
        with torch.no_grad():
            logits = model(torch.tensor(sequence.input_ids[None].astype(np.int64))).logits[0].double().numpy()
        for position in range(len(sequence) - 1):
            if sequence.labels[position + 1] != -100:
                logp.append(logits[position] - logsumexp(logits[position]))
                labels.append(int(sequence.labels[position + 1]))
                documents.append(sequence.document)
    return np.array(logp), np.array(labels), documents
