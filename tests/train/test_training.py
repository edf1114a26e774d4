"""A training from start to end in one process."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from distill_core.engine.data import TokenDataset
from distill_core.engine.progress import Progress
from distill_core.errors import TrainingError, VocabularyError
from distill_core.plugin import Needs
from distill_core.simplex import divergence
from distill_core.types import LossTerm, StudentView, TeacherSignals, TokenBatch
from tests.train.setting import (
    HiddenGap,
    numbers_tokenizer,
    objectives,
    registry_with_objectives,
    run_training,
    tiny_teacher,
)


def test_a_student_comes_closer_to_its_teacher(tmp_path: Path, student_dir: Path, data: TokenDataset) -> None:
    seen: list[int] = []
    result = run_training(
        tmp_path / "run",
        student_dir=student_dir,
        data=data,
        teacher=tiny_teacher(),
        config={
            "max_steps": 6,
            "batch_sequences": 4,
            "eval_steps": 3,
            "objectives": objectives("kl", "gap", {"use": "hard", "weight": 0.1}),
        },
        eval_data=data,
        on_step=lambda step, metrics: seen.append(step),
    )
    lines = [json.loads(line) for line in result.metrics.read_text().splitlines()]
    assert seen == [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert [line["step"] for line in lines if "eval_loss" in line] == [3, 6]
    assert lines[5]["eval_objectives"]["kl"] < lines[2]["eval_objectives"]["kl"]
    assert set(lines[0]["objectives"]) == {"kl", "gap", "hard"}
    assert lines[0]["reported"]["gap.rms"] > 0
    expected = lines[0]["objectives"]["kl"] + lines[0]["objectives"]["gap"] + 0.1 * lines[0]["objectives"]["hard"]
    assert abs(lines[0]["loss"] - expected) < 1e-9
    before = AutoModelForCausalLM.from_pretrained(student_dir)
    after = AutoModelForCausalLM.from_pretrained(result.model)
    assert set(before.state_dict()) == set(after.state_dict())
    assert not torch.equal(before.lm_head.weight, after.lm_head.weight)
    assert sorted(path.name for path in result.model.iterdir()) == [
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    assert len(AutoTokenizer.from_pretrained(result.model)) == 97


def test_tensorboard_gets_what_the_metrics_say(tmp_path: Path, student_dir: Path, data: TokenDataset) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    result = run_training(
        tmp_path,
        student_dir=student_dir,
        data=data,
        config={"max_steps": 4, "log_steps": 2, "objectives": objectives("hard"), "trackers": ["tensorboard"]},
    )
    lines = [json.loads(line) for line in result.metrics.read_text().splitlines()]
    (events,) = tmp_path.rglob("events.out.tfevents*")
    accumulator = EventAccumulator(str(events.parent))
    accumulator.Reload()
    written = {event.step: event.value for event in accumulator.Scalars("train/objectives/hard")}
    assert written == {step: pytest.approx(lines[step - 1]["objectives"]["hard"]) for step in (2, 4)}


def test_another_tokenizer_is_refused_and_a_shared_one_is_said(
    tmp_path: Path, student_dir: Path, data: TokenDataset, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {"student_dir": student_dir, "data": data, "teacher": tiny_teacher()}
    config = {"objectives": objectives("gap")}
    run_training(tmp_path / "a", config=config, progress=Progress(terminal=False), **settings)
    assert "teacher and student share one tokenizer of 97 tokens" in capsys.readouterr().err
    with pytest.raises(VocabularyError, match="teacher and student have different tokenizers"):
        run_training(tmp_path / "b", config=config, tokenizer=numbers_tokenizer(96), **settings)
    # without a teacher there is nothing to disagree with
    hard = {"objectives": objectives("hard")}
    run_training(tmp_path / "c", config=hard, tokenizer=numbers_tokenizer(96), **settings)


class Kept(HiddenGap):
    exported = True


def test_an_objective_may_be_exported(tmp_path: Path, student_dir: Path, data: TokenDataset) -> None:
    registry = registry_with_objectives()
    registry.register("objective", "kept", Kept)
    config = {"objectives": objectives("kept")}
    run_training(tmp_path, student_dir=student_dir, data=data, teacher=tiny_teacher(), config=config, registry=registry)
    assert load_file(tmp_path / "objectives" / "kept.safetensors")["map.weight"].shape == (48, 32)


def test_what_a_live_teacher_is_asked_for(tmp_path: Path, student_dir: Path, data: TokenDataset) -> None:
    teacher = tiny_teacher()
    names = objectives("kl", {"use": "tv", "temperature": 2.0})
    sparse = {"method": "topk", "k": 5}
    run_training(
        tmp_path, student_dir=student_dir, data=data, teacher=teacher, config={"objectives": names, "sparse": sparse}
    )
    needs, spec = teacher.asked[0]
    assert needs.signals == {"targets"} and needs.targets == ("exact",) and needs.temperatures == (1.0, 2.0)
    assert (spec.method, spec.k, spec.temperatures) == ("topk", 5, (1.0, 2.0))


def test_a_store_with_several_draws_answers_with_another_one_each_epoch(
    tmp_path: Path, student_dir: Path, data: TokenDataset
) -> None:
    teacher = tiny_teacher()
    teacher.meta = SimpleNamespace(draws=2)
    drawn: list[int] = []
    answer = teacher.signals

    def signals(*args: Any, **kwargs: Any) -> Any:
        drawn.append(teacher.draw)
        return answer(*args, **kwargs)

    teacher.signals = signals
    run_training(
        tmp_path,
        student_dir=student_dir,
        data=data,
        teacher=teacher,
        config={"max_steps": 7, "batch_sequences": 6, "objectives": objectives("kl")},
    )
    assert drawn == [0, 0, 1, 1, 0, 0, 1]  # two steps of six go through twelve sequences


def test_two_objectives_of_one_kind_have_two_names(tmp_path: Path, student_dir: Path, data: TokenDataset) -> None:
    names = objectives("kl", {"use": "kl", "temperature": 2.0}, {"use": "kl", "name": "hot", "temperature": 4.0})
    result = run_training(
        tmp_path, student_dir=student_dir, data=data, teacher=tiny_teacher(), config={"objectives": names}
    )
    line = json.loads(result.metrics.read_text().splitlines()[0])
    assert list(line["objectives"]) == ["kl", "kl-2", "hot"]
    assert len(set(line["objectives"].values())) == 3


@divergence
def cut_off(teacher_logp, student_logp):
    """A divergence whose author left torch on the way."""
    return torch.from_numpy((teacher_logp - student_logp).detach().numpy()).sum(-1)


class CutOffGap(HiddenGap):
    """A free-form objective that watches instead of teaching."""

    def forward(self, student: StudentView, teacher: TeacherSignals, batch: TokenBatch) -> LossTerm:
        return LossTerm(super().forward(student, teacher, batch).total.detach())


@pytest.mark.parametrize("name", ["cut-off", "cut-off-gap"])
def test_an_objective_without_a_gradient_is_refused(
    tmp_path: Path, student_dir: Path, data: TokenDataset, name: str
) -> None:
    registry = registry_with_objectives()
    registry.register("objective", "cut-off", cut_off)
    registry.register("objective", "cut-off-gap", CutOffGap)

    def run(weight: float) -> None:
        named = objectives("hard", {"use": name, "weight": weight})
        run_training(
            tmp_path / str(weight),
            student_dir=student_dir,
            data=data,
            teacher=tiny_teacher(),
            registry=registry,
            config={"objectives": named},
        )

    with pytest.raises(TrainingError, match=rf"objective {name} returned values without a gradient.*weight: 0"):
        run(1.0)
    run(0.0)


class AttentionGap:
    """Squared difference of the last attention maps, on real tokens."""

    needs = Needs(signals=frozenset({"attentions"}), targets=())

    def __init__(self, options: Any) -> None: ...

    def __call__(self, student: StudentView, teacher: TeacherSignals, batch: TokenBatch) -> LossTerm:
        assert student.attentions is not None and teacher.attentions is not None
        assert len(student.hidden_states) == 1  # all hidden states are kept only if somebody reads them
        gap_BHTT = student.attentions[-1] - teacher.attentions[-1]
        rows = batch.attention_mask_BT.bool()
        return LossTerm(total=gap_BHTT.transpose(1, 2)[rows].square().sum())


def test_attentions_reach_the_objective_that_needs_them(tmp_path: Path, student_dir: Path, data: TokenDataset) -> None:
    teacher = tiny_teacher()
    teacher.model.set_attn_implementation("eager")

    def signals(batch: TokenBatch, needs: Needs, sparse: Any = None) -> TeacherSignals:
        inputs = {"input_ids": batch.input_ids_BT, "attention_mask": batch.attention_mask_BT}
        return TeacherSignals(attentions=teacher.model(**inputs, output_attentions=True).attentions)

    teacher.signals = signals
    registry = registry_with_objectives()
    registry.register("objective", "attention-gap", AttentionGap)
    result = run_training(
        tmp_path,
        student_dir=student_dir,
        data=data,
        teacher=teacher,
        registry=registry,
        config={"max_steps": 12, "batch_sequences": 12, "objectives": objectives("attention-gap")},
    )
    lines = [json.loads(line) for line in result.metrics.read_text().splitlines()]
    assert 0 < lines[-1]["loss"] < 0.5 * lines[0]["loss"]


def test_a_live_teacher_with_more_tokens_is_truncated_or_refused(
    tmp_path: Path, student_dir: Path, data: TokenDataset
) -> None:
    """13 of the teacher's 110 tokens are foreign to the student: none of their ids may reach its head of 97 rows."""
    teacher = tiny_teacher(vocab_size=110)
    common = {"student_dir": student_dir, "data": data, "teacher": teacher}
    with pytest.raises(VocabularyError, match=r"110 tokens.*97 tokens"):
        run_training(tmp_path / "error", config={"objectives": objectives("kl")}, **common)

    result = run_training(
        tmp_path / "run", config={"objectives": objectives("kl"), "vocabulary": "truncate"}, eval_data=data, **common
    )
    assert result.vocabulary is not None and "97" in result.vocabulary
    assert result.loss > 0 and math.isfinite(result.loss)
    probe = next(iter(data.batches(2)))
    raw = teacher.signals(probe, Needs(frozenset({"targets"}), temperatures=(1.0,)))
    assert raw.target is not None and int(raw.target.ids_NK.max()) >= 97  # there was something to drop
