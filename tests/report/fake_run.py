"""A run directory as a real run leaves it, made up in a second: the report's tests and its screenshots use it."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from distill_core.engine.results import compare, figures, finite, write_documents
from distill_core.interfaces import Measurement
from distill_core.store import RowArrays, StoreMeta, StoreWriter

MODELS = {
    "teacher": {"parameters": 134_515_008, "layers": 30, "bytes_on_disk": 538_090_408},
    "student": {"parameters": 56_630_592, "layers": 8, "bytes_on_disk": 226_551_200},
    "hard-labels": {"parameters": 56_630_592, "layers": 8, "bytes_on_disk": 226_551_200},
}
LEVELS = {
    "teacher": {"cross_entropy": 3.62, "accuracy": 0.362, "ece": 0.012},
    "student": {
        "cross_entropy": 5.34,
        "accuracy": 0.204,
        "forward_kl": 2.35,
        "reverse_kl": 2.61,
        "top1_agreement": 0.302,
        "top10_overlap": 0.341,
        "ece": 0.021,
    },
    "hard-labels": {
        "cross_entropy": 5.72,
        "accuracy": 0.188,
        "forward_kl": 2.92,
        "reverse_kl": 3.9,
        "top1_agreement": 0.251,
        "top10_overlap": 0.281,
        "ece": 0.074,
    },
}
DESCRIBED = {
    "cross_entropy": ("Cross-entropy", "nat/token", False, True),
    "accuracy": ("Next-token accuracy", "fraction", True, False),
    "forward_kl": ("KL to the teacher", "nat/token", False, True),
    "reverse_kl": ("Reverse KL", "nat/token", False, False),
    "top1_agreement": ("Top-1 agreement", "fraction", True, False),
    "top10_overlap": ("Top-10 overlap", "fraction", True, False),
    "ece": ("Calibration error", "fraction", False, False),
}
SAMPLES = {
    "The state of our union is": {
        "teacher": " strong. We have the strongest economy in the world, and we have made great progress in the "
        "fight against terrorism. Our military is the best in the world, and our people are the most",
        "student": " strong. We have the strongest economy in the world, and we must continue to work together to "
        "make our country stronger. We must also make sure that every child has the opportunity to",
        "hard-labels": " the same. The American people are the American people. The American people are the American "
        "people. The American people are the American people. The",
    },
    "To lower the cost of health care, Congress must": {
        "teacher": " pass the Patient Protection and Affordable Care Act, which would expand coverage to millions of "
        "Americans who do not have it today.",
        "student": " act to reduce the cost of health care. We must give families the security of knowing that they "
        "can see a doctor when they need one.",
        "hard-labels": " be to the people of the United States, and the people of the United States, and the people "
        "of the world.",
    },
}


def measurements(name: str, *, documents: int = 14, seed: int = 0) -> list[Measurement]:
    """Made-up sums per document: hard documents are hard for all models, as in life."""
    shared = np.random.default_rng(seed)
    rows = shared.integers(700, 1500, size=documents)
    hard = shared.normal(0, 0.06, size=documents)
    own = np.random.default_rng([seed, *name.encode()])
    found = []
    for metric, level in LEVELS[name].items():
        label, unit, higher, primary = DESCRIBED[metric]
        values = level * np.exp((-hard if higher else hard) + own.normal(0, 0.02, size=documents))
        sums = {f"{2003 + i}": (float(v * n), float(n)) for i, (v, n) in enumerate(zip(values, rows, strict=True))}
        n, value = int(rows.sum()), sum(s for s, _ in sums.values()) / float(rows.sum())
        detail: dict[str, Any] = {}
        if metric == "forward_kl":
            detail = {"by_position": by_position(level, own)}
        if metric == "ece":
            detail = {"reliability": reliability(level, own)}
        found.append(Measurement(metric, value, unit, n, higher, sums, detail, label=label, primary=primary))
        if metric == "cross_entropy":
            found.append(
                Measurement(
                    "perplexity",
                    math.exp(value),
                    "",
                    n,
                    False,
                    sums,
                    {},
                    transform="exp",
                    derived_from=metric,
                    label="Perplexity",
                )
            )
    return found


def by_position(level: float, own: np.random.Generator) -> list[dict[str, Any]]:
    edges = [0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256]
    return [
        {
            "start": start,
            "stop": stop,
            "value": level * (0.93 + 0.7 / (1 + start)) + own.normal(0, 0.05),
            "standard_error": 0.3 / math.sqrt(1 + start) + 0.03,
            "n": 60 * (stop - start),
        }
        for start, stop in itertools.pairwise(edges)
    ]


def reliability(gap: float, own: np.random.Generator) -> list[dict[str, Any]]:
    confidence = np.linspace(0.06, 0.92, 15) ** 1.3
    accuracy = np.clip(confidence - 2.0 * gap * confidence + own.normal(0, 0.012, size=15), 0, 1)
    return [{"confidence": float(c), "accuracy": float(a), "n": 960} for c, a in zip(confidence, accuracy, strict=True)]


def results(*, documents: int = 14, seed: int = 0, samples: dict[str, dict[str, str]] = SAMPLES) -> dict[str, Any]:
    """What ``evaluate`` would write."""
    measured = {name: measurements(name, documents=documents, seed=seed) for name in MODELS}
    speed = {"teacher": (1450.0, 21.4), "student": (4630.0, 57.0), "hard-labels": (4655.0, 56.2)}
    return finite(
        {
            "schema": 1,
            "settings": {
                "batch_sequences": 8,
                "limit_sequences": None,
                "confidence": 0.95,
                "device": "cpu",
                "threads": 2,
                "dtype": dict.fromkeys(MODELS, "float32"),
                "logits": dict.fromkeys(MODELS, "chunked"),
                "vocabulary": {"size": 49152, "fingerprint": "8d2b6c1f"},
            },
            "data": {"sequences": 62, "rows": measured["student"][0].n, "documents": documents},
            "models": {
                name: {
                    "role": "teacher" if name == "teacher" else "student",
                    "source": f"train/{name}/model",
                    "architecture": "LlamaForCausalLM",
                    "embedding_parameters": 28_311_552,
                    "hidden_size": 576,
                    **described,
                    "metrics": {
                        m.metric: {
                            **figures(m, 0.95),
                            "evaluator": "fidelity" if "kl" in m.metric or "top" in m.metric else "language-model",
                        }
                        for m in measured[name]
                    },
                }
                for name, described in MODELS.items()
            },
            "comparisons": compare(measured, student="student", teacher="teacher"),
            "not_measured": [],
            "warnings": [],
            "efficiency": {
                "prefill_tokens": 256,
                "decode_tokens": 32,
                "rounds": 5,
                "batch_sequences": 1,
                "models": {
                    name: {
                        "prefill_tokens_per_s": read,
                        "prefill_range": (0.93 * read, 1.05 * read),
                        "decode_tokens_per_s": write,
                        "decode_range": (0.95 * write, 1.04 * write),
                    }
                    for name, (read, write) in speed.items()
                },
            },
            "generations": {
                "decoding": "greedy",
                "max_new_tokens": 40,
                "samples": [{"prompt": prompt, "outputs": outputs} for prompt, outputs in samples.items()],
            },
        }
    )


def write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=1), encoding="utf-8")


def write_training(directory: Path, objective: str, start: float, end: float, seed: int) -> None:
    rng, lines = np.random.default_rng(seed), []
    for step in range(1, 97):
        level = end + (start - end) * math.exp(-step / 14)
        loss = level * (1 + 0.035 * float(rng.normal()))
        line: dict[str, Any] = {"step": step, "loss": loss, "objectives": {objective: loss}, "tokens": 2040}
        line |= {"learning_rate": 1e-3, "grad_norm": 1.0, "tokens_per_s": 640.0}
        if step % 12 == 0:
            line |= {"eval_loss": 1.02 * level, "eval_objectives": {objective: 1.02 * level}}
        lines.append(json.dumps(line))
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "metrics.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_sums(directory: Path, **options: Any) -> None:
    """``documents.jsonl`` beside the results."""
    measured = {name: [("made up", m) for m in measurements(name, **options)] for name in MODELS}
    write_documents(directory / "evaluate" / "documents.jsonl", measured)


def write_store(directory: Path) -> None:
    rng = np.random.default_rng(4)
    meta = StoreMeta(vocabulary_size=49152, tokenizer_fingerprint="8d2b6c1f", teacher="smollm2", method="topk", k=12)
    with StoreWriter(directory, meta) as writer:
        for _ in range(4):
            sequence = rng.integers(0, 49152, size=65)
            ids = np.stack([rng.choice(49152, size=12, replace=False) for _ in range(64)])
            logits = -np.sort(-rng.normal(3, 2, size=(64, 12)), axis=1)
            rows = RowArrays(kind="exact", ids=ids, temperatures=(1.0,), logits=logits, tail=rng.normal(5, 1, (64, 1)))
            writer.append(sequence, np.arange(64), rows)


def write_run(directory: Path, *, evaluated: bool = True, **options: Any) -> Path:
    """The whole directory; ``options`` go to :func:`results`."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "run.yaml").write_text(
        "version: 1\nname: quickstart\nseed: 0\noutput_dir: runs/quickstart\n"
        "teacher: {use: hf, model: smollm2-135m-instruct}\n"
        "student: {init: {from_teacher: {layers: [0, 1, 2, 3, 26, 27, 28, 29]}}}\n"
        "capture: [{name: main, method: threshold, k: 12}, {name: topk, method: topk, k: 64}]\n"
        "train: {objectives: [{use: forward-kl}], max_steps: 96, learning_rate: 0.001}\n"
        "compare: {hard-labels: {teacher: none, objectives: [{use: cross-entropy}]}}\n",
        encoding="utf-8",
    )
    for split, records in (("train", 180), ("eval", 14)):
        summary = {
            "split": split,
            "records_in": records + 3,
            "filters": [{"filter": "exact-dedup", "dropped": 3, "reasons": {"seen before": 3}}],
            "dropped": {"shorter than 16 tokens": 5},
            "sequences": 8 * records,
            "tokens": 2048 * records,
            "predicted_tokens": 2040 * records,
            "documents": {f"{split}-{i}": 8 for i in range(records)},
        }
        write_json(directory / "data" / split / "data.json", summary)
    write_training(directory / "train" / "student", "forward-kl", 9.5, 2.3, 1)
    write_training(directory / "train" / "hard-labels", "cross-entropy", 10.6, 5.6, 2)
    write_store(directory / "capture" / "topk")
    for stage in ("data/train", "train/student", "train/hard-labels", "evaluate"):
        manifest = {
            "stage": stage.replace("/", ":"),
            "status": "finished",
            "fingerprint": "5f1d3a8c" * 8,
            "parts": {"train.max_steps": 96},
            "environment": {
                "python": "3.11.2",
                "platform": "Linux-6.1-x86_64",
                "processors": 2,
                "threads": "1",
                "versions": {"distill-core": "0.1.0", "torch": "2.13.0", "transformers": "5.23.0"},
            },
            "seconds": 131.0,
            "cpu_seconds": 120.0,
            "notes": {},
        }
        write_json(directory / stage / "manifest.json", manifest)
    if evaluated:
        write_json(directory / "evaluate" / "results.json", results(**options))
        write_sums(directory, **{key: value for key, value in options.items() if key != "samples"})
    return directory
