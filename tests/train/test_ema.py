"""EMA self-distillation: the average by hand, its checkpoints, and a whole run with no other teacher."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from distill_core.engine.data import TokenDataset, collate
from distill_core.errors import SignalError, TrainingError
from distill_core.interfaces import BuildContext
from distill_core.types import Needs, SparseSpec
from distill_teachers.ema import EMATeacher
from distill_teachers.options import EMAOptions
from tests.conftest import make_tiny_llama
from tests.run.conftest import Workshop
from tests.run.test_end_to_end import inside
from tests.train.setting import numbers_tokenizer, objectives, run_training, save_student

NEEDS = Needs(frozenset({"targets"}), targets=("exact",), temperatures=(1.0,))


def built(student: Any, **options: Any) -> EMATeacher:
    teacher = EMATeacher(EMAOptions(**options))
    teacher.build(BuildContext(student, None, 10, 0, lambda kind, reference: None, tokenizer=numbers_tokenizer()))
    return teacher


class Step:
    def __init__(self, step: int) -> None:
        self.step, self.total_steps = step, 10


def moved(student: Any, amount: float) -> None:
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(amount)


@pytest.mark.parametrize("warmup", [True, False])
def test_the_average_by_hand(warmup: bool, data: TokenDataset) -> None:
    student = make_tiny_llama(seed=1)
    teacher = built(student, decay=0.5, warmup=warmup)
    expected = student.lm_head.weight.detach().double().clone()
    for update in range(3):
        moved(student, 0.1)
        teacher.on_step_end(Step(update + 1))
        decay = min(0.5, (1 + update) / (10 + update)) if warmup else 0.5
        expected = decay * expected + (1 - decay) * student.lm_head.weight.detach().double()
    found = teacher.state_dict()["average"]["lm_head.weight"]
    assert float((found - expected).abs().max()) < 1e-6
    batch = collate([data[0], data[2]])
    target = teacher.signals(batch, NEEDS, SparseSpec("topk", 97)).target
    copied = make_tiny_llama(seed=1)
    copied.load_state_dict(teacher.state_dict()["average"])
    with torch.no_grad():
        logits = batch.rows().select(copied(batch.input_ids_BT, attention_mask=batch.attention_mask_BT).logits)
    dense = logits.double().log_softmax(-1).gather(1, target.ids_NK)
    assert float((target.log_probs(1.0)[:, :-1].double() - dense).abs().max()) < 1e-5


def test_every_steps_and_a_slow_average_of_a_bfloat16_student() -> None:
    student = make_tiny_llama(seed=1).bfloat16()
    teacher = built(student, decay=0.9999, warmup=False, every_steps=2)
    start = student.lm_head.weight.detach().float().clone()
    moved(student, 1.0)
    teacher.on_step_end(Step(1))
    assert torch.equal(teacher.state_dict()["average"]["lm_head.weight"], start)
    teacher.on_step_end(Step(2))
    change = teacher.state_dict()["average"]["lm_head.weight"] - start
    assert float(change.mean()) == pytest.approx(1e-4, rel=0.05)  # lost if the average were bfloat16


def test_interrupted_training_resumes_bit_identically(tmp_path: Path, student_dir: Path, data: TokenDataset) -> None:
    config = {"teacher": "live", "objectives": objectives("kl", "hard"), "max_steps": 6, "save_steps": 2}

    def run(name: str, crash: int | None = None) -> list[tuple[float, float]]:
        def on_step(step: int, metrics: Any) -> None:
            if step == crash:
                raise KeyboardInterrupt

        try:
            run_training(
                tmp_path / name, student_dir=student_dir, data=data, teacher=EMATeacher(EMAOptions(decay=0.9)),
                config=config, on_step=on_step,
            )  # fmt: skip
        except KeyboardInterrupt:
            assert crash is not None
        lines = [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        return [(line["loss"], line["objectives"]["kl"]) for line in lines]

    whole = run("whole")
    run("killed", crash=5)
    assert run("killed") == whole
    assert whole[0][1] == pytest.approx(0, abs=1e-6) and whole[-1][1] > 1e-6  # equal at first, then it lags


def test_an_average_that_starts_elsewhere(tmp_path: Path, student_dir: Path) -> None:
    other = save_student(tmp_path / "other", make_tiny_llama(seed=9))
    numbers_tokenizer().save_pretrained(other)
    student = make_tiny_llama(seed=1)
    teacher = built(student, model=str(other), decay=0.0, warmup=False)
    assert torch.equal(teacher.state_dict()["average"]["lm_head.weight"], make_tiny_llama(seed=9).lm_head.weight)
    teacher.on_step_end(Step(1))
    assert torch.equal(teacher.state_dict()["average"]["lm_head.weight"], student.lm_head.weight)
    wide = save_student(tmp_path / "wide", make_tiny_llama(seed=9, hidden_size=48))
    numbers_tokenizer().save_pretrained(wide)
    with pytest.raises(TrainingError, match=r"cannot start from .*wide: \d+ parameters are not those of the student"):
        built(student, model=str(wide))


def test_no_student_no_answer(data: TokenDataset) -> None:
    teacher = EMATeacher(EMAOptions())
    for ask in (lambda: teacher.vocabulary(), lambda: teacher.signals(collate([data[0]]), NEEDS)):
        with pytest.raises(SignalError, match="average of a student that trains, and none does"):
            ask()
    assert not hasattr(teacher, "model") and not hasattr(teacher, "pretrained")


def test_a_whole_run_whose_only_teacher_is_the_average(tmp_path: Path, tiny_model_dir: Path) -> None:
    workshop = Workshop(tmp_path, tiny_model_dir)

    def change(run: dict[str, Any]) -> None:
        run["teacher"] = {"use": "ema", "decay": 0.9}
        run["student"] = {"init": {"model": str(tiny_model_dir)}}
        del run["capture"]
        run["train"].update(
            teacher="live",
            objectives=[
                {"use": "cross-entropy"},
                {"use": "forward-kl", "weight": {"use": "linear", "start": 0, "end": 1}},
            ],
        )

    file = workshop.write(change)
    done = inside("run", file)
    assert done.returncode == 0, done.stderr
    results = json.loads((workshop.output / "evaluate" / "results.json").read_text())
    assert set(results["models"]) == {"student"}
    (fidelity,) = [one for one in results["not_measured"] if one["evaluator"] == "fidelity"]
    assert "average of the student's weights (decay 0.9) has no model here" in fidelity["reason"]
    assert (workshop.output / "report" / "index.html").is_file()
    captured = inside("capture", workshop.write(lambda run: (change(run), run.update(capture={"k": 4}))))
    assert captured.returncode == 2 and "but not captured, cut or evaluated" in captured.stderr
