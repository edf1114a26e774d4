"""A whole run with leaked test texts, a planted canary and groups: what its results say about all of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from distill_core.engine.plan import make_plan
from distill_core.engine.progress import Progress
from distill_core.engine.run import run
from distill_core.registry import get_registry
from tests.run.conftest import ROWS, Workshop

EVALUATORS = [
    {"use": "language-model"},
    {"use": "fidelity"},
    {"use": "calibration"},
    {"use": "temperature-scaling"},
    {"use": "contamination", "n": 6},
    {"use": "membership-inference"},
    {"use": "diversity", "fields": ["kind"], "max_new_tokens": 4},
    {"use": "group-fairness", "field": "kind"},
    {"use": "response-similarity", "max_new_tokens": 4},
    {"use": "identity-leakage", "max_new_tokens": 4},
    {"use": "synthetic-probes"},
]


def write_kinds(path: Path, texts: list[str]) -> None:
    lines = [{"text": text, "kind": "even" if index % 2 == 0 else "odd"} for index, text in enumerate(texts)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory, tiny_model_dir: Path) -> dict[str, Any]:
    directory = tmp_path_factory.mktemp("measured")
    workshop = Workshop(directory, tiny_model_dir)
    write_kinds(directory / "train.jsonl", ROWS[:8])
    write_kinds(directory / "eval.jsonl", ROWS[6:])  # two texts of the training data
    canaries = directory / "canaries.jsonl"
    canaries.write_text('{"canary": "door {}", "secret": "48213", "name": "door"}\n', encoding="utf-8")

    def change(given: dict[str, Any]) -> None:
        given["data"]["train"]["transforms"] = [{"use": "plant-canaries", "path": str(canaries)}]
        for split in ("train", "eval"):
            given["data"][split]["source"] |= {"text": "text", "fields": ["kind"]}
        given["compare"] = {"hard-labels": {"teacher": "none", "objectives": [{"use": "cross-entropy"}]}}
        unread = {"name": "unread", "method": "topk", "k": 4}  # no training reads it, so it is not captured
        given["capture"] = [{"name": "main", "method": "threshold", "k": 6}, unread]
        planted = {"use": "canaries", "path": str(canaries), "alternatives": 15}
        given["evaluate"] = {"evaluators": [*EVALUATORS, planted]}

    run(workshop.check(change), registry=get_registry(), progress=Progress(quiet=True), upto="evaluate")
    found: dict[str, Any] = json.loads((workshop.output / "evaluate" / "results.json").read_text(encoding="utf-8"))
    found["lines"] = (workshop.output / "evaluate" / "documents.jsonl").read_text(encoding="utf-8").splitlines()
    return found


def test_everything_was_measured(results: dict[str, Any]) -> None:
    assert results["not_measured"] == []
    for name, model in results["models"].items():
        for metric, entry in model["metrics"].items():
            assert entry["value"] is not None and entry["n"] > 0, (name, metric)
    data = results["data"]["metrics"]
    assert {m.split("_")[0] for m in data} == {"ngram", "contaminated", "nearest", "data"}


def test_leaked_texts_are_flagged_in_the_results(results: dict[str, Any]) -> None:
    flags = {flag["flag"]: flag for flag in results["flags"]}
    leaked = flags["test-in-training"]
    assert leaked["severity"] == "error" and leaked["evidence"]["evaluator"] == "contamination"
    assert leaked["evidence"]["documents"] == 2 and len(leaked["evidence"]["examples"]) == 2
    assert "few-documents" in flags and "baseline-budget" not in flags
    assert results["data"]["metrics"]["contaminated_documents"]["value"] == pytest.approx(2 / 6)


def test_the_canary_was_planted_and_measured(results: dict[str, Any]) -> None:
    exposure = results["models"]["student"]["metrics"]["canary_exposure"]
    assert exposure["n"] == 1 and exposure["detail"]["most"] == 4.0
    assert results["data"]["metrics"]["data_distinct_1"]["n"] == 9, "eight records and the canary"
    assert "(unlabelled)" in results["data"]["metrics"]["data_effective_kind"]["detail"]["groups"]


def test_what_it_cost_and_what_of_the_teacher_is_left(results: dict[str, Any]) -> None:
    assert results["cost"]["trainings"]["student"]["steps"] == 3
    assert set(results["cost"]["labels"]) == {"main"}
    assert results["cost"]["labels"]["main"]["rows"] > 0 and results["cost"]["stages"]["train:student"]["seconds"] > 0
    kept = {(e["metric"], e["model"]): e for e in results["retention"]}
    entry, models = kept["cross_entropy", "student"], results["models"]
    ours, theirs = (models[name]["metrics"]["cross_entropy"]["value"] for name in ("student", "teacher"))
    assert entry["value"] == pytest.approx(ours / theirs)
    assert set(entry["gap_closed"]) == {"hard-labels"}
    assert ("group_gap_cross_entropy", "student") in kept, "amplification of the gap between groups"
    assert results["transfer"] == []
    speed = results["efficiency"]["models"]["student"]
    assert speed["weight_bytes"] > 4 * models["student"]["parameters"] * 0.99
    assert speed["first_token_s"] > 0 and (speed["peak_bytes"] is None or speed["peak_bytes"] >= 0)


def test_documents_of_the_data_are_kept_too(results: dict[str, Any]) -> None:
    entries = [json.loads(line) for line in results["lines"]]
    mine = [e for e in entries if (e["model"], e["metric"]) == ("(data)", "ngram_overlap")]
    ratio = sum(e["sum"] for e in mine) / sum(e["denominator"] for e in mine)
    assert ratio == pytest.approx(results["data"]["metrics"]["ngram_overlap"]["value"])


def test_files_that_options_name_are_part_of_what_a_stage_depends_on(tmp_path: Path, plain_teacher: Path) -> None:
    workshop, file = Workshop(tmp_path, plain_teacher), tmp_path / "canaries.jsonl"
    other = tmp_path / "older"
    other.mkdir()

    def change(given: dict[str, Any]) -> None:
        given["data"]["train"]["transforms"] = [{"use": "plant-canaries", "path": str(file)}]
        flips = {"use": "negative-flips", "before": {"student": str(other), "teacher": str(plain_teacher)}}
        given["evaluate"] = {"evaluators": [{"use": "canaries", "path": str(file)}, flips]}

    def parts(stage: str) -> dict[str, Any]:
        return make_plan(workshop.check(change), registry=get_registry())[stage].parts()

    found = []
    for text in ("one", "two"):
        file.write_text(text, encoding="utf-8")
        (other / "config.json").write_text(text, encoding="utf-8")
        found.append((parts("data:train"), parts("evaluate")))
    for before, after in zip(*found, strict=True):
        changed = {name for name in before if before[name] != after[name]}
        assert changed and all(name.endswith(" (content)") for name in changed), changed
    hashed = [name for name in found[0][1] if name.startswith("evaluate.evaluators[1]") and name.endswith("(content)")]
    assert len(hashed) == 2, "both revisions count"
