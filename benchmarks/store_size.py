"""Bytes per stored position of each method and k, from stores of a real teacher's distributions.

Teacher: the packaged 135M model on windows of a text; every store holds the same windows, one shard. `distill plan`
has these figures in `distill_core/planning/storage.py`; a test compares them with the committed result.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.real_models import hidden_states, load_teacher
from benchmarks.real_text import TEXTS, documents, windows
from benchmarks.result import command_line
from distill_core.store import RowArrays, StoreMeta, StoreWriter, store_info
from distill_core.types import RowTarget, SparseSpec
from distill_teachers.sparse_targets import concatenate, from_logits

ROWS_AT_ONCE = 512
METHODS = ("topk", "threshold", "multinomial")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Text, sizes and the numbers of entries; the defaults take about five minutes on two cores."""
    parser.add_argument("--text", choices=TEXTS, default="speeches", help="default: speeches")
    parser.add_argument("--windows", type=int, default=64, help="sequences in the store, default 64")
    parser.add_argument("--window", type=int, default=128, help="tokens per sequence, default 128")
    parser.add_argument("--topk", type=int, nargs="+", default=[4, 8, 16, 32, 64, 128, 256])
    parser.add_argument("--threshold", type=int, nargs="+", default=[4, 8, 12, 16, 32, 64, 128])
    parser.add_argument("--multinomial", type=int, nargs="+", default=[12, 25, 50, 100, 200])


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Capture every store and measure its files."""
    specs = [SparseSpec(method=method, k=k) for method in METHODS for k in getattr(options, method)]
    found, digest = documents(options.text)
    with torch.inference_mode():
        teacher, tokenizer = load_teacher()
        cut = windows(found, tokenizer, options.window)
        ids_BT = cut[torch.randperm(len(cut), generator=torch.Generator().manual_seed(0))[: options.windows]]
        if len(ids_BT) < options.windows:
            raise SystemExit(f"store_size: {options.text} has only {len(ids_BT)} windows of {options.window} tokens")
        hidden_ND = hidden_states(teacher, ids_BT).unflatten(0, ids_BT.shape)[:, :-1].flatten(0, 1)
        targets = capture(hidden_ND, teacher.get_output_embeddings().weight, specs)
    measured = [
        {"method": spec.method, "k": spec.k, **stored(target, spec, ids_BT, len(tokenizer))}
        for spec, target in zip(specs, targets, strict=True)
    ]
    return {
        "benchmark": "store_size",
        "command": command_line(options),
        "vocabulary": len(tokenizer),
        "tokens_per_sequence": options.window,
        "rows": len(hidden_ND),
        "text": {"name": options.text, "sha256": digest},
        "measurements": measured,
    }


def capture(hidden_ND: Tensor, weight_VD: Tensor, specs: list[SparseSpec]) -> list[RowTarget]:
    """A target per spec of all rows; the logits of a block are computed once for all specs."""
    parts: list[list[RowTarget]] = [[] for _ in specs]
    for first in range(0, len(hidden_ND), ROWS_AT_ONCE):
        logits = hidden_ND[first : first + ROWS_AT_ONCE] @ weight_VD.T
        keys = torch.arange(first, first + len(logits))
        for part, spec in zip(parts, specs, strict=True):
            size = {"vocabulary": logits.shape[1], "valid_vocab": logits.shape[1]}
            part.append(from_logits(lambda rows, z=logits: z[rows], len(logits), spec, **size, row_keys_N=keys))
    return [concatenate(part) for part in parts]


def stored(target: RowTarget, spec: SparseSpec, ids_BT: Tensor, vocabulary: int) -> dict[str, Any]:
    """Write a store and ask it what a row costs."""
    meta = StoreMeta(
        vocabulary_size=vocabulary, tokenizer_fingerprint="f" * 32, teacher="teacher", method=spec.method, k=spec.k
    )
    fields = {"logits": target.logits_NK, "tail": target.tail_NM, "weights": target.weights_NK}
    fields |= {"entropy": target.entropy_N, "threshold": target.threshold_N}
    rows = RowArrays(
        kind=target.kind,
        ids=target.ids_NK.numpy(),
        temperatures=target.temperatures,
        **{name: value.numpy() for name, value in fields.items() if value is not None},
    )
    per_sequence = ids_BT.shape[1] - 1
    with tempfile.TemporaryDirectory() as directory:
        with StoreWriter(directory, meta, shard_sequences=len(ids_BT)) as writer:
            for number, ids_T in enumerate(ids_BT.numpy()):
                own = slice(number * per_sequence, (number + 1) * per_sequence)
                writer.append(ids_T, range(per_sequence), rows[own])
        info = store_info(Path(directory))
    return {
        "bytes_per_row": round(info.bytes_per_row, 3),
        "split": {name: round(n_bytes, 3) for name, n_bytes in info.split_per_row.items()},
    }


def table(result: dict[str, Any]) -> str:
    """Markdown: a line per k, a column per method."""
    by_method = {
        method: {m["k"]: m["bytes_per_row"] for m in result["measurements"] if m["method"] == method}
        for method in METHODS
    }
    lines = [f"| k | {' | '.join(METHODS)} |", "|---:|" + "---:|" * len(METHODS)]
    for k in sorted({m["k"] for m in result["measurements"]}):
        cells = [f"{found[k]:.1f}" if k in found else "" for found in by_method.values()]
        lines.append(f"| {k} | {' | '.join(cells)} |")
    head = (
        f"Bytes per stored position, everything in the directory counted; {result['rows']:,} positions in sequences of "
        f"{result['tokens_per_sequence']} tokens, vocabulary {result['vocabulary']:,}, text: {result['text']['name']}."
    )
    return head + "\n\n" + "\n".join(lines)
