"""How far the gradient of a student's head under a sparse target is from the full-vocabulary one, on a real teacher.

Teacher: the packaged 135M model, 30 layers; student: the same without some layers. Each seed takes
other windows of the text and other random numbers; the methods see the same tokens. Multinomial sampling gets as many
draws as it needs to hold, on average, k different ids; threshold sampling and top-k hold k.

The result file is written after every seed of a text; a run that finds some there, of the same settings, measures the
others only. With `--texts` and `--only` a run measures less, and the next one goes on.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.head_gradients import METHODS, HeadGradients, angle_degrees, draws_for_unique
from benchmarks.measure import machine
from benchmarks.real_models import hidden_states, load_teacher, without_layers
from benchmarks.real_text import TEXTS, documents, windows
from benchmarks.result import command_line, earlier, save

BLOCK = 192
"""Rows handled together; the numbers of tokens reported are this times a power of two."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Texts, sizes and seeds; the defaults take about a quarter of an hour on two cores."""
    parser.add_argument("--texts", nargs="+", choices=TEXTS, default=list(TEXTS), help="default: all")
    parser.add_argument("--tokens", type=int, default=1536, help=f"largest N, {BLOCK} times a power of two")
    parser.add_argument("--window", type=int, default=256, help="tokens per sequence, default 256")
    parser.add_argument(
        "--dropped",
        type=int,
        nargs="+",
        default=[26, 27, 28, 29],
        help="layers the student lacks, default the last four",
    )
    parser.add_argument("--entries", type=int, nargs="+", default=[12, 32], help="k, default 12 and 32")
    parser.add_argument("--seeds", type=int, default=5, help="how many in all, default 5")
    parser.add_argument(
        "--only", type=int, nargs="+", metavar="SEED", default=None, help="seeds to measure in this run, default all"
    )


def checkpoints(tokens: int) -> list[int]:
    """BLOCK, 2 BLOCK, 4 BLOCK, ... up to `tokens`."""
    found = [BLOCK]
    while found[-1] < tokens:
        found.append(2 * found[-1])
    if found[-1] != tokens:
        raise SystemExit(f"gradient_quality: --tokens must be {BLOCK} times a power of two; got {tokens}")
    return found


def log_absent(teacher_ND: Tensor, weight_VD: Tensor) -> list[Tensor]:
    """`log(1 - p)` of the teacher, [BLOCK, V] each."""
    return [torch.log1p(-(part @ weight_VD.T).softmax(1)) for part in teacher_ND.split(BLOCK)]


def measure(
    student_ND: Tensor, teacher_ND: Tensor, weight_VD: Tensor, entries: list[int], seed: int
) -> Iterator[dict[str, Any]]:
    """One entry per (N, k, method); gradients grow block by block, so that smaller N are prefixes of larger ones."""
    absent = log_absent(teacher_ND, weight_VD)
    draws = {k: draws_for_unique(absent, k) for k in entries}
    del absent
    sums = HeadGradients(weight_VD, entries, draws, seed)
    for student_nD, teacher_nD in zip(student_ND.split(BLOCK), teacher_ND.split(BLOCK), strict=True):
        sums.add(student_nD, teacher_nD)
        if sums.tokens not in checkpoints(len(student_ND)):
            continue
        full_VD = sums.full_gradient()
        for k in entries:
            for method in METHODS:
                drawn = method == "multinomial"
                yield {
                    "tokens": sums.tokens,
                    "k": k,
                    "method": method,
                    "degrees": round(angle_degrees(sums.gradient(k, method), full_VD), 4),
                    "unique_ids": round(sums.unique[k] / sums.tokens, 3) if drawn else k,
                    "draws": draws[k] if drawn else k,
                }


def settings(options: argparse.Namespace) -> dict[str, Any]:
    """What must be equal for seeds to stand in one table."""
    return {name: getattr(options, name) for name in ("tokens", "window", "dropped", "entries")}


def unfinished(options: argparse.Namespace) -> dict[str, Any]:
    """The result file as it is, or a new one; a file of other settings is refused."""
    fresh = {
        "benchmark": "gradient_quality",
        "command": command_line(argparse.Namespace(**{**vars(options), "only": None})),
        "machine": machine(),
        "settings": settings(options),
        "texts": {},
        "measurements": [],
    }
    found = earlier(options.json, settings=fresh["settings"])
    return fresh if found is None else {**found, "command": fresh["command"]}


def missing(options: argparse.Namespace, result: dict[str, Any]) -> list[tuple[str, int]]:
    """(text, seed) that are asked for and not in the result."""
    seeds = range(options.seeds)
    unknown = set(options.only or ()) - set(seeds)
    if unknown:
        raise SystemExit(f"gradient_quality: --only: no seed {sorted(unknown)} among --seeds {options.seeds}")
    done = {(m["text"], m["seed"]) for m in result["measurements"]}
    wanted = [(text, seed) for text in options.texts for seed in (options.only or seeds)]
    return [unit for unit in wanted if unit not in done]


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measure what the result file lacks."""
    if options.tokens % options.window:
        raise SystemExit(f"gradient_quality: --tokens {options.tokens} is no multiple of --window {options.window}")
    checkpoints(options.tokens)
    result = unfinished(options)
    units = missing(options, result)
    if not units:
        return result
    with torch.inference_mode():
        teacher, tokenizer = load_teacher()
        student = without_layers(teacher, options.dropped)
        weight_VD = teacher.get_output_embeddings().weight
        cut: dict[str, Tensor] = {}
        for text, seed in units:
            if text not in cut:
                found, digest = documents(text)
                cut[text] = windows(found, tokenizer, options.window)
                result["texts"][text] = {"sha256": digest, "windows": len(cut[text])}
            generator = torch.Generator().manual_seed(seed)
            chosen = torch.randperm(len(cut[text]), generator=generator)[: options.tokens // options.window]
            ids_BT = cut[text][chosen]
            if ids_BT.numel() != options.tokens:
                raise SystemExit(f"gradient_quality: {text} has too few windows for {options.tokens} tokens")
            states = hidden_states(student, ids_BT), hidden_states(teacher, ids_BT)
            for row in measure(*states, weight_VD, options.entries, seed):
                result["measurements"].append({"text": text, "seed": seed, **row})
            if options.json:
                save(result, Path(options.json))
    return result


def values(result: dict[str, Any], name: str, **fixed: Any) -> list[float]:
    """One field of the measurements that have these others, one number per seed."""
    return [m[name] for m in result["measurements"] if all(m[other] == value for other, value in fixed.items())]


def deviation(numbers: list[float]) -> float:
    """Standard deviation of the sample; 0 for a single seed."""
    return statistics.stdev(numbers) if len(numbers) > 1 else 0.0


def table(result: dict[str, Any], *, tokens: int = 1536) -> str:
    """Markdown: mean angle over the seeds and its standard deviation, for each text and k."""
    size = result["settings"]
    tokens = min(tokens, size["tokens"])
    lines = [
        "| text | k | " + " | ".join(METHODS) + " | threshold / multinomial | ids of multinomial |",
        "|---|---:|" + "---:|" * (len(METHODS) + 2),
    ]
    for text in dict.fromkeys(m["text"] for m in result["measurements"]):
        for k in size["entries"]:
            fixed = {"text": text, "k": k, "tokens": tokens}
            found = {method: values(result, "degrees", method=method, **fixed) for method in METHODS}
            cells = [f"{statistics.mean(x):.2f} ± {deviation(x):.2f}" for x in found.values()]
            ratio = statistics.mean(found["threshold"]) / statistics.mean(found["multinomial"])
            ids = values(result, "unique_ids", method="multinomial", **fixed)
            lines.append(f"| {text} | {k} | " + " | ".join(cells) + f" | {ratio:.2f} | {statistics.mean(ids):.1f} |")
    seeds = len({m["seed"] for m in result["measurements"]})
    dropped = ", ".join(map(str, size["dropped"]))
    head = (
        f"Angle in degrees to the full-vocabulary gradient of the head, mean ± standard deviation of {seeds} seeds, "
        f"N = {tokens:,} tokens, student without the layers {dropped} of 30; {result['machine']}."
    )
    return head + "\n\n" + "\n".join(lines)
