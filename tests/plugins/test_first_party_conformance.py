"""The first-party plugins pass the kit that strangers' plugins are held to."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from distill_core.registry import get_registry
from distill_core.testing import Result, check_plugin

RAMP = {"start": 0.5, "end": 1.0, "values": [0.5, 0.75, 1.0]}

FILTERS = (
    *("exact-dedup", "minhash-dedup", "semantic-dedup", "decontamination"),
    *("length", "perplexity", "ifd", "language", "judge", "pii", "safety-list"),
)


def report(
    name: str,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    kind: str | None = None,
    elsewhere: tuple[str, ...] = (),
) -> list[str]:
    """Failures, after a look that the kit was not idle, except for components whose tests are ``elsewhere``."""
    results = check_plugin(name, options=options, kind=kind)
    here = [r for r in results if not r.component.endswith(elsewhere)] if elsewhere else results
    idle = [r.check for r in here if r.status == "left out" and "defaults alone" in r.detail]
    assert not idle, f"no example options, so nothing was checked: {idle}"
    return [f"{r.component}: {r.check}: {r.detail}" for r in here if r.status == "failed"]


def test_objectives() -> None:
    # image-text-contrastive reads the classes of a task and a text encoder: tests/tasks/test_image_text.py looks at it.
    assert report("distill-objectives", kind="objective", elsewhere=(":image-text-contrastive",)) == []


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("forward-kl", {"mode": "truncated"}),
        ("forward-kl", {"mode": "renormalized"}),
        ("forward-kl", {"mode": "renormalized-both"}),
        ("alpha-beta", {"alpha": 0.4, "beta": 0.6}),
        ("alpha-beta", {"alpha": 0.0, "beta": 1.0}),
        ("alpha-beta", {"alpha": 1.2, "beta": 0.5}),
        ("interpolated-support-kl", {"interpolation": 0.5}),
        ("logit-differences", {"top_k": 2, "led": "student"}),
    ],
    ids=str,
)
def test_properties_hold_for_the_options_they_are_declared_for(name: str, options: dict[str, Any]) -> None:
    results = check_plugin("distill-objectives", options={name: options}, kind="objective")
    own = [r for r in results if r.component.endswith(f":{name}")]
    assert len(own) > 10
    assert [f"{r.check}: {r.detail}" for r in own if r.status == "failed"] == []


def test_schedules() -> None:
    options = {"constant": {"value": 0.5}, "linear": RAMP, "cosine": RAMP}
    options |= {"exponential": RAMP, "step": {"values": [4.0, 1.0], "boundaries": [0.5]}}
    assert report("distill-objectives", options, kind="schedule") == []


NOT_IN_THE_KIT = {
    "answers": "questions and a checker",
    "lm-eval": "tasks of the harness",
    "canaries": "a file of canaries",
    "chain-corruption": "questions and a checker",
    "classification": "the classes of a task",
    "group-fairness": "two groups of two documents",
    "negative-flips": "an older revision",
    "pass-at-k": "questions and a checker",
    "sparse-fidelity": "a teacher that answers",
    "step-validity": "questions",
}
"""Evaluators that need what the kit's texts do not have; tests/evaluation and tests/rationales look at them."""


def test_evaluators() -> None:
    results = check_plugin("distill-evaluation", kind="evaluator")
    assert [f"{r.component}: {r.check}: {r.detail}" for r in results if r.status == "failed"] == []
    names = {r.component.rpartition(":")[2] for r in results if r.component.startswith("evaluator ")}
    measured = {r.component.rpartition(":")[2] for r in results if r.status == "passed" and "finite" in r.check}
    assert names - measured == set(NOT_IN_THE_KIT)


def test_live_teacher(tiny_model_dir: Path) -> None:
    results = check_plugin("distill-teachers", options={"hf": {"model": str(tiny_model_dir)}})
    live = [r for r in results if "teachers:hf" in r.component]
    assert [f"{r.check}: {r.detail}" for r in live if r.status == "failed"] == []
    assert sum(r.status == "passed" for r in live) >= 10


def test_teachers_made_of_others(tiny_model_dir: Path) -> None:
    one = {"model": str(tiny_model_dir)}
    options = {
        "ensemble": {"members": {"a": {**one, "temperature": 1.5}, "b": {**one, "weight": 2.0}}},
        "calibrated": {"teacher": {"use": "hf", **one}, "temperature": 1.3},
    }
    results = check_plugin("distill-teachers", kind="teacher", options=options)
    for name in options:
        own = [r for r in results if r.component.endswith(f"teachers:{name}")]
        assert [f"{r.check}: {r.detail}" for r in own if r.status == "failed"] == []
        assert sum(r.status == "passed" for r in own) >= 9, name


def _checked(kind: str, options: Mapping[str, Mapping[str, Any]]) -> list[Result]:
    known = {e.component.name for e in get_registry().components(kind) if e.plugin == "synthesis"}
    given = {name: value for name, value in options.items() if name in known}
    return check_plugin("distill-synthesis", kind=kind, options=given)


def test_sources_and_filters(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("First text.\n\nSecond paragraph, 日本語.\n", encoding="utf-8")
    (tmp_path / "b.jsonl").write_text('{"text": "one", "id": 1}\n{"text": "two", "id": 2}\n', encoding="utf-8")
    options = {"text-files": {"paths": [str(tmp_path / "a.txt")]}, "jsonl": {"path": str(tmp_path / "b.jsonl")}}
    results = [r for kind in ("source", "filter") for r in _checked(kind, options)]
    assert [f"{r.component}: {r.check}: {r.detail}" for r in results if r.status == "failed"] == []
    checked = {r.component for r in results if r.status == "passed" and "same" in r.check}
    assert {"source synthesis:text-files", "source synthesis:jsonl"} <= checked
    filters = {f"filter synthesis:{name}" for name in FILTERS}
    assert filters == {component for component in checked if component.startswith("filter ")}


def test_selectors() -> None:
    """Options that a pool of ten sequences and a model of two layers can do with."""
    brief = {"share": 0.5, "epochs": 1, "learning_rate": 0.001}
    options: dict[str, dict[str, Any]] = {
        "less": {"dim": 16, "warm_up": brief},
        "trak": {"dim": 16, "networks": 2, "warm_up": brief},
        "el2n": {"networks": 2, "warm_up": brief},
        "ifd": {"drop_above": 9.0},
    }
    assert report("distill-synthesis", options, kind="selector") == []


WRITERS = ("attributed-prompts", "back-translation", "evol-instruct", "magpie", "rejection-sampling", "self-instruct")
STUDENTS_READ = ("gradient-matching-text", "generator-matching")


def test_synthesizers() -> None:
    """A teacher with sense and new students are elsewhere: tests/generation and tests/text_matching have them."""
    images = {"images_per_class": 1, "iterations": 1, "network": {"depth": 1, "width": 4}}
    experts = {"trajectory-matching": {"experts": 1, "expert_epochs": 2, "latest_start": 0, "student_steps": 1}}
    options: dict[str, dict[str, Any]] = {
        "sequence-kd": {"max_new_tokens": 8},
        "rationales": {"select": "vote", "min_votes": 1},
        **{
            name: {**images, **experts.get(name, {})}
            for name in (
                "gradient-matching",
                "distribution-matching",
                "trajectory-matching",
                "kernel-regression",
                "performance-matching",
            )
        },
    }
    elsewhere = tuple(f":{name}" for name in (*WRITERS, *STUDENTS_READ))
    assert report("distill-synthesis", options, kind="synthesizer", elsewhere=elsewhere) == []
