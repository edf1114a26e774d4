"""Cheating is planted, and the page says so in red with the reason; an honest run raises nothing."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from distill_core.report import collect, render
from distill_core.report.content import as_json, content_of
from distill_core.report.recorded import recipe
from tests.evaluation.conftest import write_sequences
from tests.report.fake_run import results, write_json, write_run


def content(directory: Path) -> dict[str, Any]:
    return content_of(collect(directory))


def flag(directory: Path, name: str) -> dict[str, Any]:
    found = [one for one in content(directory)["flags"] if one["flag"] == name]
    assert len(found) == 1, content(directory)["flags"]
    return dict(found[0])


def sequences(directory: Path, split: str, documents: dict[str, list[list[int]]]) -> None:
    """Tokenised sequences beside what the made-up run says of the split."""
    target = directory / "data" / split
    summary = (target / "data.json").read_text(encoding="utf-8")
    write_sequences(target, [(name, ids, None) for name, several in documents.items() for ids in several])
    (target / "data.json").write_text(summary, encoding="utf-8")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    directory = write_run(tmp_path / "runs" / "quickstart")
    sequences(directory, "train", {f"train-{i}": [[i, 1, 2, 3], [i, 4, 5]] for i in range(150)})
    sequences(directory, "eval", {f"eval-{i}": [[i, 9, 9, 7]] for i in range(150)})
    return directory


def test_an_honest_run_passes_every_check(run: Path) -> None:
    found = content(run)
    assert found["flags"] == []
    assert [check["outcome"] for check in found["checks"]] == ["passed"] * 5
    assert found["headline"]["tone"] == "good"
    assert found["headline"]["trust"][0] == "5 of 5 checks passed."


def test_held_out_text_inside_the_training_data(run: Path) -> None:
    sequences(run, "train", {"copied": [[i, 9, 9, 7] for i in range(12)], "own": [[0, 1, 2]]})
    found = flag(run, "test-in-training")
    assert found["severity"] == "error" and "12 of 150 held-out sequences" in found["reason"]
    assert found["evidence"]["examples"][0] == {"held_out": "eval-0", "training": "copied"}
    assert content(run)["headline"]["title"] == "No claim can be made: One problem must be mended first."
    assert content(run)["headline"]["sentences"][0].startswith("Taken alone, the figures would say: The student beats")


def test_one_leaked_sequence_of_many_is_a_warning(run: Path) -> None:
    sequences(run, "train", {"copied": [[0, 9, 9, 7]], "own": [[0, 1, 2]]})
    assert flag(run, "test-in-training")["severity"] == "warning"
    assert content(run)["headline"]["tone"] == "good"


def test_only_selected_sequences_count_as_trained_on(run: Path) -> None:
    sequences(run, "train", {"copied": [[i, 9, 9, 7] for i in range(12)], "own": [[0, 1, 2]]})
    write_sequences(run / "select", [("own", [0, 1, 2], None)])
    assert content(run)["overlap"]["sequences"] == 0


def test_a_document_in_both_splits(run: Path) -> None:
    sequences(run, "train", {"eval-3": [[8, 8, 8]], "record-1": [[7, 7]]})
    sequences(run, "eval", {"eval-3": [[5, 5, 5]], "record-1": [[6, 6]]})
    found = flag(run, "document-in-both-splits")
    assert found["evidence"] == {"documents": 1, "examples": ["eval-3"]}, "numbered records are not documents"


@pytest.mark.parametrize(("documents", "severity"), [(1, "error"), (7, "warning")])
def test_too_few_documents(tmp_path: Path, documents: int, severity: str) -> None:
    assert flag(write_run(tmp_path / "run", documents=documents), "few-documents")["severity"] == severity


def test_a_baseline_with_half_the_steps(run: Path) -> None:
    path = run / "train" / "hard-labels" / "metrics.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines()
    path.write_text("\n".join(lines[:48]) + "\n", encoding="utf-8")
    found = flag(run, "baseline-budget")
    assert found["severity"] == "error"
    assert "hard-labels was trained on less: 48 steps against student's 96" in found["reason"]
    path.write_text("\n".join(lines[:94]) + "\n", encoding="utf-8")
    assert content(run)["flags"] == [], "a few steps less are no other budget"


def test_a_baseline_with_fewer_tokens_in_as_many_steps(run: Path) -> None:
    path = run / "train" / "hard-labels" / "metrics.jsonl"
    path.write_text(path.read_text(encoding="utf-8").replace('"tokens": 2040', '"tokens": 1000'), encoding="utf-8")
    assert "96,000 tokens against student's 195,840" in flag(run, "baseline-budget")["reason"]


def test_labels_of_another_tokenizer(run: Path) -> None:
    write_json(
        run / "data" / "train" / "manifest.json", {"notes": {"tokenizer": {"fingerprint": "ffff0000", "size": 9}}}
    )
    found = flag(run, "tokenizers-differ")
    assert found["severity"] == "error" and found["evidence"]["data train"] == "ffff0000"
    text = (run / "run.yaml").read_text(encoding="utf-8").replace("train: {", "train: {vocabulary: truncate, ")
    (run / "run.yaml").write_text(text, encoding="utf-8")
    assert content(run)["flags"] == [], "a policy for differing vocabularies allows it"


def test_a_shuffled_tokenizer_shows_as_worse_than_guessing(run: Path) -> None:
    """ln 49152 = 10.8: no model that knows its tokenizer is above it."""
    found = results()
    found["models"]["teacher"]["metrics"]["cross_entropy"]["value"] = 14.2
    write_json(run / "evaluate" / "results.json", found)
    reason = flag(run, "worse-than-guessing")["reason"]
    assert "teacher has cross-entropy 14.20 nat/token, above 10.80" in reason


def sibling(run: Path, seed: int, value: float) -> Path:
    other = run.parent / f"quickstart-{seed}"
    other.mkdir()
    config = yaml.safe_load((run / "run.yaml").read_text(encoding="utf-8"))
    config |= {"seed": seed, "name": f"quickstart-{seed}", "output_dir": str(other)}
    (other / "run.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    found = results()
    found["models"]["student"]["metrics"]["cross_entropy"]["value"] = value
    write_json(other / "evaluate" / "results.json", found)
    return other


def test_a_cherry_picked_seed(run: Path) -> None:
    sibling(run, 1, 6.0)
    other = sibling(run, 2, 6.1)
    found = flag(run, "cherry-picked-seed")
    assert found["severity"] == "error"
    assert "with the seeds 0, 1, 2, and only 0 is shown, the best in cross-entropy" in found["reason"]
    assert set(found["evidence"]["left_out"]) == {"1", "2"}
    config = yaml.safe_load((other / "run.yaml").read_text(encoding="utf-8"))
    config["train"]["learning_rate"] = 0.5
    (other / "run.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    assert [one["seed"] for one in content(run)["siblings"]] == [1], "another recipe is no other seed"


def test_one_of_several_seeds_that_is_not_the_best_is_a_warning(run: Path) -> None:
    sibling(run, 1, 1.0)
    assert flag(run, "seeds-left-out")["severity"] == "warning"


def test_a_replaced_seed(run: Path) -> None:
    manifest = json.loads((run / "train" / "student" / "manifest.json").read_text(encoding="utf-8"))
    write_json(run / "train" / "student" / "manifest.json", {**manifest, "parts": {"seed": 2, "train.max_steps": 96}})
    old = {**manifest, "parts": {"seed": 1, "train.max_steps": 96, "output of student": "x"}}
    write_json(run / "stale" / "train" / "student" / "manifest.json", old)
    assert flag(run, "replaced-seed")["evidence"] == {"seeds": [1]}
    write_json(
        run / "stale" / "train" / "student" / "manifest.json", {**old, "parts": {"seed": 1, "train.max_steps": 9}}
    )
    assert content(run)["flags"] == [], "an older recipe is no other seed"


def test_flags_of_evaluators_are_shown_and_count(run: Path) -> None:
    found = results()
    found["flags"] = [
        {"flag": "canary-memorised", "severity": "error", "reason": "It knows the canary.", "evidence": {}}
    ]
    write_json(run / "evaluate" / "results.json", found)
    assert flag(run, "canary-memorised")["reason"] == "It knows the canary."
    assert content(run)["headline"]["tone"] == "alarm"


def test_without_data_or_training_the_checks_say_they_could_not_be_made(tmp_path: Path) -> None:
    directory = tmp_path / "pair"
    write_json(directory / "evaluate" / "results.json", results())
    found = content(directory)
    outcomes = {check["check"]: check["outcome"] for check in found["checks"]}
    assert outcomes["test-in-training"] == outcomes["baseline-budget"] == "unknown"
    assert outcomes["cherry-picked-seed"] == "unknown" and found["kind"] == "models"


def test_a_recipe_is_the_run_file_but_for_seed_and_place() -> None:
    base = {"name": "a", "seed": 0, "output_dir": "x", "report": {"title": "t"}, "train": {"max_steps": 2}}
    assert recipe(base) == recipe({**base, "name": "b", "seed": 5, "output_dir": "y", "report": {}})
    assert recipe(base) != recipe({**base, "train": {"max_steps": 3}})


def test_a_damaged_data_file_is_named(run: Path) -> None:
    (run / "data" / "train" / "tokens.arrow").write_bytes(b"no arrow")
    found = content(run)
    assert found["overlap"] is None and "cannot be compared" in found["problems"][0]
    shutil.rmtree(run / "data" / "train")
    assert content(run)["problems"] == []


@pytest.mark.parametrize("severity", ["error", "warning"])
@pytest.mark.parametrize(
    ("name", "check"),
    [
        ("test-in-training", "test-in-training"),
        ("near-duplicate-of-test", "test-in-training"),
        ("shuffled-tokenizer", "tokenizers-differ"),
        ("underpowered", "few-documents"),
        ("different-data", "baseline-budget"),
        ("memorised-canary", None),
    ],
)
def test_what_the_evaluation_flags_stands_on_the_page_and_fails_its_check(
    run: Path, name: str, check: str | None, severity: str
) -> None:
    found = results()
    reason = f"Planted: {name} of <b>this</b> run."
    found["flags"] = [{"flag": name, "severity": severity, "reason": reason, "evidence": {}}]
    write_json(run / "evaluate" / "results.json", found)
    made = content(run)
    failed = {one["check"]: one["said"] for one in made["checks"] if one["outcome"] == "flagged"}
    assert failed == ({check: reason} if check else {})
    page = render(json.loads(as_json(made)))
    shown = re.search(rf'<p class="{severity}">.*?</p>', page, flags=re.S)
    assert shown is not None and f"Planted: {name} of &lt;b&gt;this&lt;/b&gt; run." in shown.group()
    assert (made["headline"]["tone"] == "alarm") == (severity == "error")


def test_a_graver_finding_of_the_evaluation_is_not_hidden_by_a_milder_check(run: Path) -> None:
    """One leaked sequence of 150 is a warning by the tokens; by the words it is a whole document: an error."""
    sequences(run, "train", {"copied": [[0, 9, 9, 7]], "own": [[0, 1, 2]]})
    found = results()
    reason = "1 of 14 held-out documents stand in the training data."
    found["flags"] = [{"flag": "test-in-training", "severity": "error", "reason": reason, "evidence": {}}]
    write_json(run / "evaluate" / "results.json", found)
    made = content(run)
    assert [(one["flag"], one["severity"]) for one in made["flags"]] == [
        ("test-in-training", "error"),
        ("test-in-training", "warning"),
    ]
    assert made["headline"]["tone"] == "alarm"
