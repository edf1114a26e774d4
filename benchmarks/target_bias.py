"""Which way each sparse target pulls a student, on a real teacher: gradient, held-out distance and calibration.

Teacher: the packaged 135M model, 30 layers; student: the same without some layers, its head frozen, with a square map
of its last hidden states that is trained: `h + h A`, A = 0 at first. Every target trains that map from the same start
on the same tokens in the same order, with Adam; multinomial sampling takes as many draws as give k different ids on
average. Measured on other windows of the text, over the whole vocabulary.

The result file is written after every target; a run that finds targets of the same settings there goes on after them,
and with `--cache` does not run the models again.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.head_gradients import angle_degrees, draws_for_unique
from benchmarks.measure import machine
from benchmarks.real_models import hidden_states, load_teacher, without_layers
from benchmarks.real_text import TEXTS, documents, windows
from benchmarks.result import command_line, earlier, save
from distill_core import ops

TARGETS = ("full", "tail", "truncated", "renormalized", "renormalized-both", "multinomial", "threshold")
"""The whole vocabulary, then the six sparse targets by the names that a run file gives them."""

BINS = 10
"""Equally wide bins of confidence for the calibration error."""

Loss = Callable[[Tensor, Tensor], Tensor]
"""(hidden [n, D], rows int64 [n]) -> mean loss in nat."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Sizes and seeds; the defaults take a few minutes on two cores."""
    parser.add_argument("--text", choices=TEXTS, default="speeches", help="default speeches")
    parser.add_argument("--tokens", type=int, default=1024, help="tokens trained on, default 1024")
    parser.add_argument("--held-out", type=int, default=512, help="tokens measured on, default 512")
    parser.add_argument("--window", type=int, default=256, help="tokens per sequence, default 256")
    parser.add_argument("--dropped", type=int, nargs="+", default=[13, 14, 15, 16], help="layers the student lacks")
    parser.add_argument("--entries", type=int, default=12, help="k, default 12")
    parser.add_argument("--steps", type=int, default=16, help="default 16")
    parser.add_argument("--batch", type=int, default=256, help="tokens per step, default 256")
    parser.add_argument("--learning-rate", type=float, default=1e-4, help="default 1e-4")
    parser.add_argument("--seeds", type=int, default=3, help="default 3")
    parser.add_argument("--cache", metavar="DIR", default=None, help="keep the models' hidden states there")


def loss_of(target: str, teacher_NV: Tensor, weight_VD: Tensor, k: int, draws: int, seed: int) -> Loss:
    """Forward KL to one target of the teacher's distributions, over rows of them."""
    if target == "full":
        logp_NV = teacher_NV.log_softmax(1)

        def dense(hidden_nD: Tensor, rows: Tensor) -> Tensor:
            logq_nV = (hidden_nD @ weight_VD.T).log_softmax(1)
            return nn.functional.kl_div(logq_nV, logp_NV[rows], reduction="batchmean", log_target=True)

        return dense
    tail_logp_N: Tensor | None = None
    if target in ("multinomial", "threshold"):
        mode = "weights"
        ids_NK, weights_NK = ops.sample_support(
            teacher_NV, draws if target == "multinomial" else k, method=target, seed=seed
        )
        logp_NK = weights_NK.to(teacher_NV.dtype).log()
    else:
        mode = target
        top = ops.topk_logits(teacher_NV, k)
        ids_NK = top.ids_NK
        logp_NK, tail_logp_N = top.log_probs()

    def sparse(hidden_nD: Tensor, rows: Tensor) -> Tensor:
        tail_n = tail_logp_N[rows] if mode == "tail" and tail_logp_N is not None else None
        return ops.linear_sparse_kl(
            hidden_nD, weight_VD, ids_NK[rows], logp_NK[rows], tail_logp_N=tail_n, mode=mode, reduction="mean"
        )

    return sparse


def head_gradient(loss: Loss, hidden_ND: Tensor, weight_VD: Tensor) -> Tensor:
    """[V, D], of the mean loss over all rows; `loss` closes over `weight_VD`."""
    weight_VD.requires_grad_(True)
    try:
        (gradient,) = torch.autograd.grad(loss(hidden_ND, torch.arange(len(hidden_ND))), weight_VD)
    finally:
        weight_VD.requires_grad_(False)
    return gradient


def trained(loss: Loss, hidden_ND: Tensor, options: argparse.Namespace, seed: int) -> Tensor:
    """[D, D], the map after all steps; the order of the tokens depends on the seed alone."""
    generator = torch.Generator().manual_seed(seed)
    map_DD = torch.zeros(hidden_ND.shape[1], hidden_ND.shape[1], requires_grad=True)
    optimizer = torch.optim.Adam([map_DD], lr=options.learning_rate)
    left = torch.empty(0, dtype=torch.long)
    for _ in range(options.steps):
        if len(left) < options.batch:
            left = torch.randperm(len(hidden_ND), generator=generator)
        rows, left = left[: options.batch], left[options.batch :]
        picked_nD = hidden_ND[rows]
        optimizer.zero_grad(set_to_none=True)
        loss(picked_nD + picked_nD @ map_DD, rows).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return map_DD.detach()


def calibration_error(confidence_N: Tensor, right_N: Tensor) -> float:
    """Sum over bins of their share times |mean confidence - share of right answers|."""
    bin_N = (confidence_N * BINS).long().clamp_max(BINS - 1)
    gaps = torch.zeros(BINS, dtype=torch.float64)
    gaps.index_add_(0, bin_N, (confidence_N - right_N.to(confidence_N.dtype)).double())
    return float(gaps.abs().sum()) / len(confidence_N)


@torch.no_grad()
def held_out(logits_NV: Tensor, teacher_NV: Tensor, labels_N: Tensor, k: int) -> dict[str, float]:
    """What a student says on tokens it was not trained on, beside the teacher."""
    logq_NV, logp_NV = logits_NV.log_softmax(1), teacher_NV.log_softmax(1)
    confidence_N, best_N = logq_NV.exp().max(1)
    support_NK = logp_NV.topk(k, dim=1).indices
    return {
        "kl": float((logp_NV.exp() * (logp_NV - logq_NV)).sum(1).mean()),
        "confidence": float(confidence_N.mean()),
        "accuracy": float((best_N == labels_N).float().mean()),
        "calibration_error": calibration_error(confidence_N, best_N == labels_N),
        "mass_outside": float(1 - logq_NV.gather(1, support_NK).exp().sum(1).mean()),
    }


def split(hidden_ND: Tensor, ids_BT: Tensor) -> tuple[Tensor, Tensor]:
    """Hidden states that have a next token in their window, and those tokens."""
    length = ids_BT.shape[1]
    return hidden_ND.view(-1, length, hidden_ND.shape[1])[:, :-1].flatten(0, 1), ids_BT[:, 1:].flatten()


def settings(options: argparse.Namespace) -> dict[str, Any]:
    """What must be equal for seeds to stand in one table."""
    names = ("text", "tokens", "held_out", "window", "dropped", "entries", "steps", "batch", "learning_rate")
    return {name: getattr(options, name) for name in names}


def unfinished(options: argparse.Namespace) -> dict[str, Any]:
    """The result file as it is, or a new one; a file of other settings is refused."""
    fresh = {
        "benchmark": "target_bias",
        "command": command_line(options),
        "machine": machine(),
        "settings": settings(options),
        "measurements": [],
    }
    found = earlier(options.json, settings=fresh["settings"])
    return fresh if found is None else {**found, "command": fresh["command"]}


def measure(
    student: tuple[Tensor, Tensor],
    teacher: tuple[Tensor, Tensor],
    labels_N: Tensor,
    weight_VD: Tensor,
    options: argparse.Namespace,
    seed: int,
    missing: list[str],
    keep: Callable[[dict[str, Any]], None],
) -> None:
    """Hands every missing target to `keep`; `student` and `teacher` are (trained on, held out) hidden states."""
    teacher_NV, held_NV = (part @ weight_VD.T for part in teacher)
    k = options.entries
    draws = draws_for_unique([torch.log1p(-teacher_NV.softmax(1))], k) if "multinomial" in missing else k
    full_VD: Tensor | None = None
    for name in ("teacher", "untrained"):
        if name in missing:
            logits_NV = held_NV if name == "teacher" else student[1] @ weight_VD.T
            keep({"target": name, **held_out(logits_NV, held_NV, labels_N, k)})
    for target in TARGETS:
        if target not in missing:
            continue
        loss = loss_of(target, teacher_NV, weight_VD, k, draws, seed)
        if full_VD is None:
            full_VD = head_gradient(loss_of("full", teacher_NV, weight_VD, k, draws, seed), student[0], weight_VD)
        degrees = angle_degrees(head_gradient(loss, student[0], weight_VD), full_VD) if target != "full" else 0.0
        map_DD = trained(loss, student[0], options, seed)
        logits_NV = (student[1] + student[1] @ map_DD) @ weight_VD.T
        keep({"target": target, "degrees": degrees, **held_out(logits_NV, held_NV, labels_N, k)})


def states_of(options: argparse.Namespace, seed: int) -> dict[str, Tensor]:
    """`student`, `teacher` [N, D], `labels` [N] of a seed's windows, each as (trained on, held out), and the head."""
    path = Path(options.cache) / f"target-bias-{seed}.pt" if options.cache else None
    wanted = settings(options)
    if path is not None and path.exists():
        kept = torch.load(path, weights_only=True)
        if kept["settings"] == wanted:
            return dict(kept["states"])
    teacher, tokenizer = load_teacher()
    found, _ = documents(options.text)
    cut = windows(found, tokenizer, options.window)
    chosen = torch.randperm(len(cut), generator=torch.Generator().manual_seed(seed))
    ids_BT = cut[chosen[: (options.tokens + options.held_out) // options.window]]
    states = {"head": teacher.get_output_embeddings().weight.detach().clone()}
    for name, model in (("student", without_layers(teacher, options.dropped)), ("teacher", teacher)):
        states[name], states["labels"] = split(hidden_states(model, ids_BT).clone(), ids_BT)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save({"settings": wanted, "states": states}, path.with_suffix(".part"))
        path.with_suffix(".part").replace(path)
    return states


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measure what the result file lacks."""
    if options.tokens % options.window or options.held_out % options.window:
        raise SystemExit(f"target_bias: --tokens and --held-out are multiples of --window {options.window}")
    result = unfinished(options)
    done = {(m["seed"], m["target"]) for m in result["measurements"]}
    wanted = ("teacher", "untrained", *TARGETS)
    for seed in range(options.seeds):
        missing = [target for target in wanted if (seed, target) not in done]
        if not missing:
            continue
        states = states_of(options, seed)
        first = options.tokens // options.window * (options.window - 1)

        def keep(row: dict[str, Any], seed: int = seed) -> None:
            rounded = {name: round(value, 6) if isinstance(value, float) else value for name, value in row.items()}
            result["measurements"].append({"seed": seed, **rounded})
            if options.json:
                save(result, Path(options.json))

        student, teacher = ((states[name][:first], states[name][first:]) for name in ("student", "teacher"))
        measure(student, teacher, states["labels"][first:], states["head"], options, seed, missing, keep)
    return result


def means(result: dict[str, Any], name: str) -> dict[str, list[float]]:
    """One field by target, a number per seed."""
    found: dict[str, list[float]] = {}
    for row in sorted(result["measurements"], key=lambda row: row["seed"]):
        if name in row:
            found.setdefault(row["target"], []).append(row[name])
    return found


def paired(own: list[float], reference: list[float]) -> tuple[float, float]:
    """Mean of the differences seed by seed, and its standard error (nan for one seed)."""
    differences = [a - b for a, b in zip(own, reference, strict=True)]
    error = statistics.stdev(differences) / len(differences) ** 0.5 if len(differences) > 1 else float("nan")
    return statistics.mean(differences), error


def table(result: dict[str, Any]) -> str:
    """Markdown: means over the seeds, and what differs from full KD with its standard error."""
    size = result["settings"]
    columns = {n: means(result, n) for n in ("degrees", "kl", "confidence", "calibration_error", "mass_outside")}
    accuracy = means(result, "accuracy")
    lines = [
        "| target | angle | held-out KL | confidence | confidence - full KD | accuracy | ECE | mass outside top-k |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for target in ("teacher", "untrained", *TARGETS):
        mean = {name: statistics.mean(column[target]) for name, column in columns.items() if target in column}
        gap, error = paired(columns["confidence"][target], columns["confidence"]["full"])
        angle = f"{mean['degrees']:.1f}°" if "degrees" in mean and target != "full" else ""
        lines.append(
            f"| {target} | {angle} | {mean['kl']:.3f} | {mean['confidence']:.3f} | {gap:+.3f} ± {error:.3f} | "
            f"{statistics.mean(accuracy[target]):.3f} | {mean['calibration_error']:.3f} | {mean['mass_outside']:.3f} |"
        )
    seeds = len({m["seed"] for m in result["measurements"]})
    dropped = ", ".join(map(str, size["dropped"]))
    head = (
        f"{size['text']}, k = {size['entries']}, student without the layers {dropped} of 30, {size['steps']} steps of "
        f"{size['batch']} tokens, learning rate {size['learning_rate']:g}, means of {seeds} seeds (± standard error of "
        f"the paired difference), measured on {size['held_out']:,} other tokens; {result['machine']}."
    )
    return head + "\n\n" + "\n".join(lines)
