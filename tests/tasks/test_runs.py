"""Whole runs with a task: capture, training from the store, from a live teacher and without one, evaluation, report."""

from __future__ import annotations

import io
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from typing import Any

import pytest

from distill_core.cli.application import exit_code
from tests.tasks.conftest import COLOURS, Bench


def distill(*words: object) -> tuple[int, str, str]:
    """The command line in this process, where torch is imported already."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = exit_code([str(word) for word in words])
    return code, out.getvalue(), err.getvalue()


@pytest.mark.parametrize("kind", ["bert", "llama", "bert-tokens", "vit", "resnet"])
def test_run_from_data_to_report(bench: Callable[[str], Bench], kind: str) -> None:
    one = bench(kind)
    live = {"teacher": "live", "objectives": [{"use": "forward-kl", "temperature": 2.0}, {"use": "cross-entropy"}]}
    file = one.write(lambda run: run["compare"].update(live=live))
    code, _, err = distill("run", file)
    assert code == 0, err
    results = one.results()
    assert set(results["models"]) == {"teacher", "student", "hard", "live"}
    student = results["models"]["student"]["metrics"]
    assert {"accuracy", "macro_f1", "cross_entropy", "forward_kl", "top1_agreement", "ece"} <= set(student)
    assert results["not_measured"] == [] and results["efficiency"] is None
    assert student["forward_kl"]["unit"] == "nat/row" and "top10_overlap" not in student
    page = (one.output / "report" / "index.html").read_text(encoding="utf-8")
    assert "Macro F1" in page and "hard" in page
    apart = results["disagreements"]
    assert apart["model"] == "student" and apart["classes"] and apart["tokens"] == [] and apart["examples"]
    assert ("Class to predict" in page) and ("Token to predict" not in page)
    assert (one.output / "train" / "student" / "model" / "config.json").is_file()
    again, out, _ = distill("run", file)
    assert again == 0 and "nothing was done" in out


@pytest.mark.parametrize("kind", ["bert", "vit"])
def test_student_learns_and_loads_as_a_normal_model(bench: Callable[[str], Bench], kind: str) -> None:
    """The data give the class away: cross-entropy alone must find it, and the result is a Transformers directory."""
    from transformers import AutoConfig

    one = bench(kind)

    def hard(run: dict[str, Any]) -> None:
        del run["capture"], run["compare"]
        run.pop("teacher")
        run["student"]["tokenizer"] = str(one.tokenizer_dir)
        run["train"].update(teacher="none", objectives=[{"use": "cross-entropy"}], max_steps=40, eval_steps=20)
        run["evaluate"] = {"evaluators": [{"use": "classification"}]}

    code, _, err = distill("run", one.write(hard))
    assert code == 0, err
    assert one.results()["models"]["student"]["metrics"]["accuracy"]["value"] >= 0.9
    config = AutoConfig.from_pretrained(one.output / "train" / "student" / "model")
    assert tuple(config.id2label[index] for index in range(3)) == COLOURS
