"""Teachers that answer nonsense are stopped at the first batch, by name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from distill_core.engine.data import TokenDataset
from distill_core.engine.teacher_answers import ask_teacher
from distill_core.errors import SignalError, TrainingError
from distill_core.plugin import Needs
from distill_core.types import RowTarget, TeacherSignals, TokenBatch
from tests.train.setting import DenseTeacher, objectives, run_training, tiny_teacher

CPU = torch.device("cpu")
TARGETS = Needs(signals=frozenset({"targets"}))


class Altered(DenseTeacher):
    """A dense teacher whose answer is changed before it is given."""

    def __init__(self, change: Any) -> None:
        super().__init__(tiny_teacher().model)
        self.change = change

    def signals(self, batch: TokenBatch, needs: Needs, sparse: Any = None) -> TeacherSignals:
        return self.change(super().signals(batch, needs, sparse))


def put(field: str, value: float, *at: int) -> Any:
    def change(signals: TeacherSignals) -> TeacherSignals:
        tensor = getattr(signals.target, field).clone()
        tensor[at] = value
        return replace(signals, target=replace(signals.target, **{field: tensor}))

    return change


def sampled(weight: float, entropy: float) -> Any:
    def change(signals: TeacherSignals) -> TeacherSignals:
        n = len(signals.target)  # type: ignore[arg-type]
        weights = torch.full((n, 8), weight)
        target = RowTarget(
            "sampled", signals.target.ids_NK, (1.0,), weights_NK=weights, entropy_N=torch.full((n,), entropy)
        )  # type: ignore[union-attr]
        return replace(signals, target=target)

    return change


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (put("logits_NK", float("nan"), 3, 2), "1 of .* logits are NaN"),
        (put("logits_NK", float("inf"), 0, 0), "1 of .* logits are NaN or infinite"),
        (put("tail_NM", float("nan"), 5, 0), "1 of .* tail are NaN"),
        (sampled(float("nan"), 1.0), "288 of 288 weights are NaN"),
        (sampled(0.125, float("inf")), "36 of 36 entropy are NaN or infinite"),
    ],
    ids=["nan-logit", "inf-logit", "nan-tail", "nan-weight", "inf-entropy"],
)
def test_values_that_are_not_finite_name_the_teacher(data: TokenDataset, change: Any, what: str) -> None:
    batch = next(data.batches(2))
    with pytest.raises(TrainingError, match=rf"teacher dense-teacher@1 gave values that are not finite: {what}"):
        ask_teacher(Altered(change), batch, TARGETS, None, CPU)


def test_probability_zero_is_legal_but_a_row_without_mass_is_not(data: TokenDataset) -> None:
    batch = next(data.batches(2))
    ask_teacher(Altered(put("logits_NK", float("-inf"), 3, 2)), batch, TARGETS, None, CPU)
    ask_teacher(Altered(put("tail_NM", float("-inf"), 3, 0)), batch, TARGETS, None, CPU)

    def empty_row(signals: TeacherSignals) -> TeacherSignals:
        for column in range(8):
            signals = put("logits_NK", float("-inf"), 3, column)(signals)
        return put("tail_NM", float("-inf"), 3, 0)(signals)

    with pytest.raises(TrainingError, match="1 rows have no probability anywhere"):
        ask_teacher(Altered(empty_row), batch, TARGETS, None, CPU)


def test_padding_may_hold_anything(data: TokenDataset) -> None:
    batch = next(data.batches(3))
    needs = Needs(signals=frozenset({"targets", "hidden_states"}))

    def poison(signals: TeacherSignals) -> TeacherSignals:
        padded = ~batch.attention_mask_BT.bool()[..., None]
        states = tuple(state.masked_fill(padded, float("nan")) for state in signals.hidden_states or ())
        ids = signals.target.ids_NK.clone()  # type: ignore[union-attr]
        ids[:, -1] = -1
        logits = signals.target.logits_NK.clone()  # type: ignore[union-attr]
        logits[:, -1] = float("nan")
        target = replace(signals.target, ids_NK=ids, logits_NK=logits)  # type: ignore[type-var]
        return replace(signals, target=target, hidden_states=states)

    answer = ask_teacher(Altered(poison), batch, needs, None, CPU)
    assert answer.hidden_states is not None

    def poison_token(signals: TeacherSignals) -> TeacherSignals:
        state = signals.hidden_states[1].clone()  # type: ignore[index]
        state[1, 2, 5] = float("nan")
        return replace(signals, hidden_states=(signals.hidden_states[0], state))  # type: ignore[index]

    with pytest.raises(TrainingError, match="hidden states of layer 1 hold NaN"):
        ask_teacher(Altered(poison_token), batch, needs, None, CPU)


def test_nan_in_the_teachers_weights_stops_the_first_batch(
    tmp_path: Path, student_dir: Path, data: TokenDataset
) -> None:
    teacher = tiny_teacher()
    with torch.no_grad():
        teacher.model.model.layers[0].mlp.up_proj.weight[0, 0] = float("nan")
    with pytest.raises(TrainingError, match="teacher dense-teacher@1 gave values that are not finite"):
        run_training(
            tmp_path, student_dir=student_dir, data=data, teacher=teacher, config={"objectives": objectives("kl")}
        )
    assert len(teacher.asked) == 1
    assert (tmp_path / "metrics.jsonl").read_text() == ""


def test_nan_in_the_student_names_step_and_objective(tmp_path: Path, student_dir: Path, data: TokenDataset) -> None:
    with pytest.raises(TrainingError, match=r"step 2: the sum of objective tv is nan; the step was not taken"):
        run_training(
            tmp_path,
            student_dir=student_dir,
            data=data,
            teacher=tiny_teacher(),
            config={"objectives": objectives("hard", "tv"), "save_steps": 1},
            registry=with_a_total_variation_that_breaks_at_step_2(),
        )
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["checkpoint-1"]


def with_a_total_variation_that_breaks_at_step_2() -> Any:
    from tests.train.setting import registry_with_objectives

    class Breaking:
        def __init__(self, options: Any) -> None: ...

        def rows(self, support: Any, target: RowTarget, rows: Any) -> torch.Tensor:
            return support.cross_entropy() * (float("nan") if rows.step == 1 else 1.0)

    registry = registry_with_objectives()
    registry.register("objective", "tv", Breaking, needs=TARGETS)
    return registry


def test_missing_answers_are_sentences(data: TokenDataset) -> None:
    batch = next(data.batches(2))
    with pytest.raises(SignalError, match="the objectives need targets of a teacher, but this training has none"):
        ask_teacher(None, batch, TARGETS, None, CPU)
    with pytest.raises(SignalError, match=r"teacher dense-teacher@1 was asked for attentions and gave none"):
        ask_teacher(tiny_teacher(), batch, Needs(signals=frozenset({"attentions"})), None, CPU)
    cut = Altered(lambda signals: replace(signals, target=signals.target[:5]))
    with pytest.raises(SignalError, match=r"answered 5 rows for a batch of"):
        ask_teacher(cut, batch, TARGETS, None, CPU)
    assert ask_teacher(None, batch, Needs(), None, CPU) == TeacherSignals()
