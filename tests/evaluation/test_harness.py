"""The evaluator lm-eval: figures equal to the harness's own to the last digit, local tasks, clear errors."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from distill_core.engine.results import figures
from distill_core.errors import DataError, SignalError
from distill_core.interfaces import EvaluationContext
from distill_evaluation.harness import Harness, _as_ratio
from distill_evaluation.harness_options import HarnessOptions

slow = pytest.mark.slow


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A multiple-choice task and a perplexity task, as a user without a network writes them."""
    directory = tmp_path_factory.mktemp("tasks")
    questions = [
        {"question": f"The union of {n} and {n + 1} is", "choices": ["strong", f"{2 * n + 1}", "a"], "label": n % 3}
        for n in range(12)
    ]
    texts = [{"text": f"In {1800 + n} the treasury held {n * n} dollars and little hope."} for n in range(7)]
    for name, rows in (("choice", questions), ("prose", texts)):
        (directory / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    common = {"dataset_path": "json", "test_split": "test"}
    choice = {
        "task": "tiny_choice",
        **common,
        "dataset_kwargs": {"data_files": {"test": str(directory / "choice.jsonl")}},
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}}",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "{{label}}",
        "metric_list": [
            {"metric": name, "aggregation": "mean", "higher_is_better": True} for name in ("acc", "acc_norm")
        ],
    }
    prose = {
        "task": "tiny_prose",
        **common,
        "dataset_kwargs": {"data_files": {"test": str(directory / "prose.jsonl")}},
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{text}}",
        "metric_list": [{"metric": "word_perplexity"}, {"metric": "byte_perplexity"}, {"metric": "bits_per_byte"}],
    }
    for one in (choice, prose):
        (directory / f"{one['task']}.yaml").write_text(yaml.safe_dump(one), encoding="utf-8")
    return directory


@pytest.fixture(scope="module")
def offline(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """No hub is asked, and nothing is cached outside."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("HF_DATASETS_OFFLINE", "1")
        patch.setenv("HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def context(models: dict[str, Any], tokenizer: Any, name: str = "student", **changes: Any) -> EvaluationContext:
    fields = {"name": name, "model": models[name], "tokenizer": tokenizer, "batches": lambda: iter(()), "teacher": None}
    return EvaluationContext(**{**fields, **changes})


@pytest.fixture(scope="module")
def measured(offline: Any, models: dict[str, Any], tokenizer: Any, tasks: Path) -> dict[str, Any]:
    options = HarnessOptions(
        tasks=["tiny_choice", "tiny_prose"], include_path=str(tasks), batch_size=4, samples=3, bootstrap=50
    )
    return {m.metric: m for m in Harness(options).evaluate(context(models, tokenizer))}


@slow
def test_figures_equal_the_harness_to_the_last_digit(
    measured: dict[str, Any], models: dict[str, Any], tokenizer: Any, tasks: Path
) -> None:
    import lm_eval
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    own = lm_eval.simple_evaluate(
        model=HFLM(pretrained=models["student"], tokenizer=tokenizer, batch_size=4),
        tasks=["tiny_choice", "tiny_prose"],
        task_manager=TaskManager(include_path=str(tasks)),
        bootstrap_iters=50,
    )["results"]
    names = {
        "lm_eval_tiny_choice_acc": ("tiny_choice", "acc"),
        "lm_eval_tiny_choice_acc_norm": ("tiny_choice", "acc_norm"),
        "lm_eval_tiny_prose_word_perplexity": ("tiny_prose", "word_perplexity"),
        "lm_eval_tiny_prose_byte_perplexity": ("tiny_prose", "byte_perplexity"),
        "lm_eval_tiny_prose_bits_per_byte": ("tiny_prose", "bits_per_byte"),
    }
    assert measured.keys() == names.keys()
    for name, (task, metric) in names.items():
        found = measured[name]
        assert found.value == own[task][f"{metric},none"] == found.detail["harness"]["value"]
        error = own[task][f"{metric}_stderr,none"]  # "N/A" where the harness has none
        assert found.detail["harness"]["standard_error"] == (error if isinstance(error, float) else None)
        assert figures(found, 0.95)["value"] == pytest.approx(found.value, rel=1e-12), "the sums give the same figure"
    stderr = own["tiny_choice"]["acc_stderr,none"]
    assert stderr > 0
    assert figures(measured["lm_eval_tiny_choice_acc"], 0.95)["standard_error"] == pytest.approx(stderr, rel=1e-9)


@slow
def test_questions_are_documents_and_samples_and_settings_are_kept(measured: dict[str, Any]) -> None:
    accuracy = measured["lm_eval_tiny_choice_acc"]
    assert accuracy.n == len(accuracy.document_sums) == 12 and accuracy.unit == "fraction" and accuracy.primary
    assert not measured["lm_eval_tiny_choice_acc_norm"].primary
    assert not measured["lm_eval_tiny_prose_word_perplexity"].higher_is_better
    settings = accuracy.detail["settings"]
    assert settings["batch_size"] == 4 and settings["dtype"] == "float32" and settings["version"]
    samples = accuracy.detail["samples"]
    assert len(samples) == 3 and samples[0]["question"] == "The union of 0 and 1 is" and samples[0]["target"] == "0"


@slow
def test_the_command_lm_eval_reads_an_exported_student_and_agrees(
    measured: dict[str, Any], models: dict[str, Any], tokenizer: Any, tasks: Path, tmp_path: Path
) -> None:
    export = tmp_path / "model"
    models["student"].save_pretrained(export)
    tokenizer.save_pretrained(export)
    words = ["--model", "hf", "--model_args", f"pretrained={export},dtype=float32", "--tasks", "tiny_choice,tiny_prose"]
    words += [
        "--include_path",
        str(tasks),
        "--batch_size",
        "4",
        "--device",
        "cpu",
        "--output_path",
        str(tmp_path / "out"),
    ]
    environment = {**os.environ, "HF_DATASETS_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "lm_eval", "run", *words], capture_output=True, text=True, env=environment, timeout=500
    )
    assert done.returncode == 0, done.stderr[-2000:]
    (path,) = (tmp_path / "out").rglob("results_*.json")
    own = json.loads(path.read_text(encoding="utf-8"))["results"]
    assert measured["lm_eval_tiny_choice_acc"].value == own["tiny_choice"]["acc,none"]
    assert measured["lm_eval_tiny_prose_word_perplexity"].value == own["tiny_prose"]["word_perplexity,none"]


@slow
def test_wrong_use(offline: Any, models: dict[str, Any], tokenizer: Any, tasks: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no task nonsense.*lm_eval ls tasks"):
        Harness(HarnessOptions(tasks=["nonsense"])).evaluate(context(models, tokenizer))
    missing = HarnessOptions(tasks=["tiny_choice"], include_path=str(tmp_path / "absent"))
    with pytest.raises(DataError, match="is no directory of task files"):
        Harness(missing).evaluate(context(models, tokenizer))


def test_without_the_package_it_says_what_to_install(
    models: dict[str, Any], tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(SignalError, match=r"pip install 'distill-evaluation\[lm-eval\]'"):
        Harness(HarnessOptions(tasks=["x"])).evaluate(context(models, tokenizer))


def test_classifiers_are_refused(models: dict[str, Any], tokenizer: Any) -> None:
    with pytest.raises(SignalError, match="asks language models"):
        Harness(HarnessOptions(tasks=["x"])).evaluate(context(models, tokenizer, labels=("a", "b")))


def test_what_is_a_ratio_over_questions() -> None:
    pairs = {"a": (-3.0, 2.0), "b": (-1.0, 2.0)}
    assert _as_ratio(pairs, math.e) == ({"a": (3.0, 2.0), "b": (1.0, 2.0)}, "exp", "")
    bits = _as_ratio(pairs, 1 / math.log(2))
    assert bits is not None and bits[1:] == ("identity", "bit")
    assert _as_ratio({"a": -1.0, "b": -3.0}, math.exp(2.0)) == ({"a": (1.0, 1.0), "b": (3.0, 1.0)}, "exp", "")
    assert _as_ratio(pairs, 5.0) is None and _as_ratio({}, 1.0) is None
    assert _as_ratio({"a": "x"}, 1.0) is None
    assert _as_ratio({"a": 0.2, "b": 0.4}, 0.9) is None, "a corpus figure is no mean"
    assert _as_ratio({"a": 4, "b": 2}, 3.0) == ({"a": (4.0, 1.0), "b": (2.0, 1.0)}, "identity", "")
