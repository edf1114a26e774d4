"""A whole run on tiny models: gold rationales, two tasks, an answer-only baseline, answers judged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from distill_core.engine.plan import make_plan
from distill_core.engine.progress import Progress
from distill_core.engine.run import run
from distill_core.engine.run_file.validate import load_run_file
from distill_core.errors import ConfigError, TrainingError
from distill_core.interfaces import BuildContext, EvaluationContext
from distill_core.registry import get_registry
from distill_core.types import RowInfo, TeacherSignals, TokenBatch
from distill_evaluation.answers import Answers
from distill_evaluation.answers_options import AnswersOptions
from distill_evaluation.writing import write
from distill_objectives.row_weights.domains import Domains
from distill_objectives.row_weights.options import DomainsOptions, ProgressiveStepsOptions
from distill_objectives.row_weights.progressive_steps import ProgressiveSteps

QUESTIONS = {"use": "arithmetic", "max_steps": 2}


def run_file(directory: Path, model: Path, **changes: Any) -> Path:
    data = {
        "name": "rationale",
        "output_dir": str(directory / "run"),
        "data": {
            "sequence_length_tokens": 200,
            "train": {"source": {**QUESTIONS, "count": 6}, "transforms": [{"use": "rationale-tasks"}]},
            "eval": {
                "source": {**QUESTIONS, "count": 3, "split": "held-out"},
                "transforms": [{"use": "rationale-tasks", "form": "rationale-then-answer"}],
            },
        },
        "student": {"init": {"model": str(model)}},
        "train": {"teacher": "none", "objectives": [{"use": "cross-entropy"}], "max_steps": 2, "batch_sequences": 4},
        "compare": {
            "answer-only": {
                "objectives": [{"use": "cross-entropy", "row_weights": {"use": "domains", "weights": {"rationale": 0}}}]
            }
        },
        "evaluate": {
            "evaluators": [
                {
                    "use": "answers",
                    "questions": {**QUESTIONS, "count": 4, "split": "held-out"},
                    "checker": {"use": "numeric-answer"},
                    "trained_way": {"student": "rationale", "answer-only": "direct"},
                }
            ]
        },
        **changes,
    }
    path = directory / "run.yaml"
    path.write_text(yaml.safe_dump(data), encoding="utf-8")
    return path


def test_a_run_with_rationales_and_its_baseline(tmp_path: Path, tiny_model_dir: Path) -> None:
    registry = get_registry()
    checked = load_run_file(run_file(tmp_path, tiny_model_dir), registry=registry)
    run(checked, registry=registry, progress=Progress(quiet=True))
    results = json.loads((tmp_path / "run" / "evaluate" / "results.json").read_text())
    for name, way in (("student", "rationale"), ("answer-only", "direct")):
        metrics = results["models"][name]["metrics"]
        assert set(metrics) == {"answer_accuracy_direct", "answer_accuracy_rationale", "answer_accuracy"}
        assert metrics["answer_accuracy"]["n"] == 4
        assert metrics["answer_accuracy"]["value"] == metrics[f"answer_accuracy_{way}"]["value"]
    summary = json.loads((tmp_path / "run" / "data" / "train" / "data.json").read_text())
    assert summary["records_in"] == 6 and summary["sequences"] == 12


def test_validation_tells_what_a_synthesizer_lacks(tmp_path: Path, tiny_model_dir: Path) -> None:
    synthesize = {"use": "rationales", "checker": {"use": "numeric-answr"}}
    with pytest.raises(ConfigError) as caught:
        load_run_file(run_file(tmp_path, tiny_model_dir, synthesize=synthesize), registry=get_registry())
    assert "synthesize.checker.use" in str(caught.value) and "numeric-answer" in str(caught.value)
    synthesize["checker"] = {"use": "numeric-answer"}
    with pytest.raises(ConfigError, match="needs a teacher that writes text"):
        load_run_file(run_file(tmp_path, tiny_model_dir, synthesize=synthesize), registry=get_registry())
    (tmp_path / "s").mkdir()
    changes = {"synthesize": synthesize, "teacher": {"use": "store", "path": str(tmp_path / "s")}}
    with pytest.raises(ConfigError, match=r"needs a teacher that writes text \(text\): .*store gives targets"):
        load_run_file(run_file(tmp_path, tiny_model_dir, **changes), registry=get_registry())
    both = {"read": changes["teacher"], "write": {"use": "hf", "model": "x/y"}}
    with pytest.raises(ConfigError, match="name one that can with `teacher: write`"):
        changes = {"synthesize": synthesize, "teachers": both}
        load_run_file(run_file(tmp_path, tiny_model_dir, **changes), registry=get_registry())
    several = {
        "synthesize": {**synthesize, "teachers": {"write": 1.0, "wirte": 0.5}},
        "teachers": {"write": both["write"]},
    }
    with pytest.raises(ConfigError, match=r"synthesize\.teachers .*: no teacher is called 'wirte'.*write"):
        load_run_file(run_file(tmp_path, tiny_model_dir, **several), registry=get_registry())
    several["teachers"] = {"write": both["write"], "wirte": {"use": "hf", "model": "x/z"}}
    checked = load_run_file(run_file(tmp_path, tiny_model_dir, **several), registry=get_registry())
    parts = make_plan(checked, registry=get_registry())["synthesize"].parts()
    assert {parts["teachers.write.model"], parts["teachers.wirte.model"]} == {"x/y", "x/z"}
    with pytest.raises(ConfigError, match="no teacher is called 'tacher'"):
        changes = {"synthesize": {**synthesize, "teacher": "tacher"}, "teacher": {"use": "hf", "model": "x/y"}}
        load_run_file(run_file(tmp_path, tiny_model_dir, **changes), registry=get_registry())


def test_answers_are_scored_by_document(monkeypatch: pytest.MonkeyPatch) -> None:
    registry = get_registry()
    right = {r["question"]: r["answer"] for r in registry.build("source", {**QUESTIONS, "count": 5}).records()}

    def written(model: Any, tokenizer: Any, prompts: list[str], tokens: int, batch: int) -> tuple[list[str], int]:
        answers = [right[p.split("] ")[1].strip()] for p in prompts]
        return [
            f"so. Answer: {a}" if p.startswith("[rat") else "no idea" for p, a in zip(prompts, answers, strict=True)
        ], 7

    monkeypatch.setattr("distill_evaluation.answers.write", written)
    options = AnswersOptions(questions={**QUESTIONS, "count": 5}, checker={"use": "numeric-answer"})
    context = EvaluationContext("student", None, None, lambda: [], None, build=registry.build)
    direct, rationale = Answers(options).evaluate(context)
    assert (direct.value, rationale.value, rationale.n) == (0.0, 1.0, 5) and len(rationale.document_sums) == 5
    assert direct.detail["shown"][0]["reason"] == "no number"
    with pytest.raises(ValueError, match="ways are direct, rationale"):
        AnswersOptions(questions=QUESTIONS, checker={"use": "numeric-answer"}, trained_way={"student": "slow"})


def test_batched_writing_is_that_of_single_questions(tiny_model_dir: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = (c.from_pretrained(tiny_model_dir) for c in (AutoModelForCausalLM, AutoTokenizer))
    prompts = ["The state", "We meet today to speak of the work", "No"]
    together, n = write(model.eval(), tokenizer, prompts, 6, 3)
    alone = [write(model, tokenizer, [prompt], 6, 1) for prompt in prompts]
    assert together == [texts[0] for texts, _ in alone] and n == sum(count for _, count in alone) > 0


def batch_of(labels: list[list[int]], domains: tuple[str, ...]) -> TokenBatch:
    labels_BT = torch.tensor(labels)
    keys, names = tuple(bytes(16) for _ in labels), tuple("d" for _ in labels)
    ones_BT = torch.ones_like(labels_BT)
    return TokenBatch(labels_BT.clamp_min(0), ones_BT, labels_BT, keys, names, domains=domains)


def info(batch: TokenBatch, step: int = 0) -> RowInfo:
    rows = batch.rows()
    return RowInfo(rows.labels_N, rows.sequence_N, rows.position_N, step=step, total_steps=10)


def test_row_weights_by_domain() -> None:
    batch = batch_of([[-100, 3, 4], [-100, -100, 5]], ("rationale", "label"))
    weight = Domains(DomainsOptions(weights={"rationale": 0.0}))
    assert weight.weights(batch, TeacherSignals(), info(batch)).tolist() == [0.0, 0.0, 1.0]
    bare = batch_of([[-100, 3]], ())
    with pytest.raises(TrainingError, match="no record of the batch has a `domain`"):
        weight.weights(bare, TeacherSignals(), info(bare))


def test_the_last_steps_count_first() -> None:
    class Tokens:
        def __len__(self) -> int:
            return 10

        def decode(self, ids: list[int]) -> str:
            return "." if ids == [9] else "x"

    weight = ProgressiveSteps(ProgressiveStepsOptions(start=0.25, whole_after=0.5))
    weight.build(BuildContext(torch.nn.Linear(1, 1), None, 10, 0, lambda *a: None, tokenizer=Tokens()))
    batch = batch_of([[-100, 1, 9, 2, 9, 3, 9, 4], [-100, 5, 6, -100, -100, -100, -100, -100]], ())
    found = {step: weight.weights(batch, TeacherSignals(), info(batch, step)).tolist() for step in (0, 2, 5, 9)}
    assert found[0] == [0, 0, 0, 0, 0, 0, 1, 1, 1]  # 1 of 4 steps; a single step always counts
    assert found[2] == [0, 0, 1, 1, 1, 1, 1, 1, 1]  # ceil(0.55 * 4) = 3
    assert found[5] == found[9] == [1] * 9
