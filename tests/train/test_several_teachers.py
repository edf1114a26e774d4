"""Several teachers: losses each on its own, distributions mixed on the union of supports, live and stored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from distill_core.config import CaptureConfig
from distill_core.engine.aggregation import AggregatedTeacher, by_id
from distill_core.engine.data import TokenDataset
from distill_core.engine.joint_capture import capture_jointly
from distill_core.engine.stored import StoredSignals
from distill_core.errors import SignalError, StoreError, TrainingError
from distill_core.mixture import mixture
from distill_core.options import Options
from distill_core.plugin import Needs
from distill_core.registry import Registry
from distill_core.store import sequence_key
from distill_core.types import RowInfo, RowTarget, TeacherSignals, TokenBatch
from distill_teachers.hf import HFTeacher
from tests.conftest import make_tiny_llama
from tests.train.setting import numbers_tokenizer, objectives, registry_with_objectives, run_training
from tests.train.test_checkpoints import losses

NEEDS = Needs(frozenset({"targets"}), ("exact",), (1.0,))
SHARES = torch.tensor([0.25, 0.75])


class Weighted:
    """A quarter of the first, three quarters of the second; counts what it learned."""

    def __init__(self, options: Options) -> None:
        self.steps = 0

    def combine(self, targets: Mapping[str, RowTarget], batch: TokenBatch, temperature: float) -> TeacherSignals:
        return TeacherSignals(target=mixture(targets, SHARES, temperature))

    def on_step_end(self, ctx: Any) -> None:
        self.steps += 1

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.steps = state["steps"]


class Surprise:
    """Rows weigh the teacher's tail mass; remembers it."""

    seen: ClassVar[list[Tensor]] = []

    def __init__(self, options: Options) -> None: ...

    def weights(self, batch: TokenBatch, signals: TeacherSignals, rows: RowInfo) -> Tensor:
        assert signals.target is not None
        self.seen.append(signals.target.log_probs()[:, -1].exp())
        return self.seen[-1]


class Negative(Surprise):
    def weights(self, batch: TokenBatch, signals: TeacherSignals, rows: RowInfo) -> Tensor:
        return -super().weights(batch, signals, rows)


def registry() -> Registry:
    found = registry_with_objectives()
    found.register("aggregator", "weighted", Weighted)
    found.register("row-weight", "surprise", Surprise, needs=Needs(frozenset({"targets"}), ("exact",)))
    found.register("row-weight", "negative", Negative, needs=Needs(frozenset({"targets"}), ("exact",)))
    return found


def two_teachers() -> dict[str, HFTeacher]:
    tokenizer = numbers_tokenizer()
    return {
        name: HFTeacher.from_model(make_tiny_llama(seed=seed, hidden_size=width), tokenizer, label=name)
        for name, seed, width in (("a", 7, 48), ("b", 8, 32))
    }


def dense_mixture(teachers: Mapping[str, HFTeacher], batch: TokenBatch) -> Tensor:
    parts = []
    for teacher in teachers.values():
        logits = teacher.model(input_ids=batch.input_ids_BT, attention_mask=batch.attention_mask_BT).logits
        parts.append(batch.rows().select(logits).double().softmax(-1))
    return SHARES[0] * parts[0] + SHARES[1] * parts[1]


@torch.no_grad()
def check_against_dense(target: RowTarget | None, teachers: Mapping[str, HFTeacher], batch: TokenBatch) -> None:
    assert target is not None
    dense_NV = dense_mixture(teachers, batch)
    found_NK1 = target.log_probs().double().exp()
    real_NK = target.ids_NK >= 0
    expected_NK = dense_NV.gather(1, target.ids_NK.clamp_min(0)) * real_NK
    torch.testing.assert_close(found_NK1[:, :-1], expected_NK, rtol=2e-2, atol=1e-7)
    torch.testing.assert_close(found_NK1[:, -1], 1 - expected_NK.sum(1), rtol=2e-2, atol=1e-7)
    # every teacher's own likeliest tokens are in the union
    assert target.ids_NK.shape[1] > 4


def test_live_teachers_are_mixed_on_the_union_of_their_supports(data: TokenDataset) -> None:
    from distill_core.types import SparseSpec

    teachers = two_teachers()
    batch = next(iter(data.batches(4)))
    mixed = AggregatedTeacher(teachers, Weighted(Options()))
    check_against_dense(mixed.signals(batch, NEEDS, SparseSpec("topk", 4)).target, teachers, batch)
    assert mixed.identity().startswith("a=") and " + b=" in mixed.identity()
    with pytest.raises(SignalError, match="hidden_states of several teachers cannot be mixed"):
        mixed.signals(batch, Needs(frozenset({"hidden_states"})))
    with pytest.raises(SignalError, match="at one temperature"):
        mixed.signals(batch, Needs(frozenset({"targets"}), ("exact",), (1.0, 2.0)))


def test_a_joint_capture_serves_the_same_mixture_and_resumes(tmp_path: Path, data: TokenDataset) -> None:
    teachers = two_teachers()
    config = CaptureConfig(method="topk", k=4, teachers=["a", "b"], joint=True, shard_sequences=3, batch_tokens=40)
    sequences = [replace(sequence, key=sequence_key(sequence.input_ids)) for sequence in data]
    capture_jointly(teachers, sequences, config, tmp_path / "whole")
    stored = {name: StoredSignals(tmp_path / "whole" / name) for name in teachers}
    for batch in data.batches(5):
        mixed = AggregatedTeacher(stored, Weighted(Options()))
        check_against_dense(mixed.signals(batch, NEEDS).target, teachers, batch)

    dying = dict(two_teachers())
    calls = 0
    answer = dying["b"].signals

    def signals(*args: Any) -> TeacherSignals:
        nonlocal calls
        calls += 1
        if calls > 9:
            raise KeyboardInterrupt
        return answer(*args)

    dying["b"].signals = signals  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        capture_jointly(dying, sequences, config, tmp_path / "killed")
    resumed = capture_jointly(teachers, sequences, config, tmp_path / "killed")
    assert resumed.skipped_sequences == 6
    files = sorted(path.relative_to(tmp_path / "whole") for path in (tmp_path / "whole").rglob("*.arrow"))
    assert len(files) == 8
    for file in files:
        assert (tmp_path / "killed" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes(), file


def test_stores_captured_apart_cannot_be_mixed(tmp_path: Path, data: TokenDataset) -> None:
    from distill_core.engine.capture import capture

    teachers = two_teachers()
    for name, teacher in teachers.items():
        capture(teacher, data, CaptureConfig(method="topk", k=4), tmp_path / name)
    mixed = AggregatedTeacher({name: StoredSignals(tmp_path / name) for name in teachers}, Weighted(Options()))
    with pytest.raises(SignalError, match="captured together"):
        mixed.signals(next(iter(data.batches(2))), NEEDS)
    with pytest.raises(StoreError, match="k: 4 against 9"):
        capture_jointly(teachers, data, CaptureConfig(method="topk", k=4, joint=True), tmp_path)


def test_an_objective_learns_from_the_teacher_it_names(tmp_path: Path, student_dir: Path, data: TokenDataset) -> None:
    teachers = two_teachers()

    def run(name: str, *refs: Any, **changes: Any) -> list[dict[str, Any]]:
        config = {"teacher": "live", "objectives": objectives(*refs), "max_steps": 3}
        result = run_training(
            tmp_path / name, student_dir=student_dir, data=data, registry=registry(), config=config, **changes
        )
        return losses(result.metrics)

    alone = run("alone", "kl", teacher=teachers["a"])
    named = run("named", {"use": "kl", "source": "a"}, named_teachers=teachers)
    assert [line["loss"] for line in alone] == [line["loss"] for line in named]
    both = run(
        "both",
        {"use": "kl", "source": "a", "name": "from-a"},
        {"use": "kl", "source": "b", "name": "from-b", "weight": 0.5},
        {"use": "gap", "source": "a"},
        named_teachers=teachers,
    )
    assert both[0]["objectives"]["from-a"] == pytest.approx(alone[0]["loss"], rel=1e-6)
    assert both[0]["objectives"]["from-b"] != pytest.approx(alone[0]["loss"], rel=1e-3)


def test_an_aggregators_state_is_in_the_checkpoint(tmp_path: Path, student_dir: Path, data: TokenDataset) -> None:
    config = {"teacher": "live", "objectives": objectives("kl"), "max_steps": 2, "save_steps": 2}
    mixed = AggregatedTeacher(two_teachers(), Weighted(Options()))
    run_training(tmp_path, student_dir=student_dir, data=data, registry=registry(), config=config, teacher=mixed)
    (saved,) = tmp_path.glob("checkpoints/*/companions.pt")
    assert torch.load(saved, weights_only=True) == {"teacher": {"steps": 2}}


def test_row_weights_multiply_the_rows_of_one_objective(tmp_path: Path, student_dir: Path, data: TokenDataset) -> None:
    Surprise.seen.clear()
    teacher = two_teachers()["a"]
    config: dict[str, Any] = {"teacher": "live", "max_steps": 1, "batch_sequences": 3}

    def line(name: str, *refs: Any) -> dict[str, Any]:
        result = run_training(
            tmp_path / name,
            student_dir=student_dir,
            data=data,
            teacher=teacher,
            registry=registry(),
            config={**config, "objectives": objectives(*refs)},
        )
        return losses(result.metrics)[0]

    weighted = line("weighted", {"use": "hard", "row_weights": {"use": "surprise"}}, {"use": "kl"})
    plain = line("plain", "hard", "kl")
    (weights_N,) = Surprise.seen
    assert float(weights_N.min()) > 0 and float(weights_N.max()) < 1
    assert weighted["objectives"]["kl"] == pytest.approx(plain["objectives"]["kl"], rel=1e-6)
    ratio = weighted["objectives"]["hard"] / plain["objectives"]["hard"]
    assert float(weights_N.min()) < ratio < float(weights_N.max())
    with pytest.raises(TrainingError, match=r"row_weights of objective kl .* one finite number from 0 per row"):
        line("negative", {"use": "kl", "row_weights": {"use": "negative"}})
    with pytest.raises(TrainingError, match="free form"):
        line("free", {"use": "gap", "row_weights": {"use": "surprise"}})


def test_entries_by_id() -> None:
    ids = torch.tensor([[4, -1, 9, -1], [-1, 2, -1, 7]])
    target = by_id(RowTarget("exact", ids, (1.0,), logits_NK=ids.float() * 10, tail_NM=torch.zeros(2, 1)))
    assert target.ids_NK.tolist() == [[9, 4], [7, 2]] and target.logits_NK is not None
    assert target.logits_NK.tolist() == [[90, 40], [70, 20]]


def test_wrong_mixtures_are_refused() -> None:
    one = RowTarget("exact", torch.tensor([[3]]), (1.0,), torch.zeros(1, 1), torch.zeros(1, 1))
    other = RowTarget("exact", torch.tensor([[4]]), (1.0,), torch.zeros(1, 1), torch.zeros(1, 1))
    with pytest.raises(ValueError, match="other ids"):
        mixture({"a": one, "b": other}, SHARES)
    with pytest.raises(ValueError, match=r"shape \(3,\); expected"):
        mixture({"a": one, "b": one}, torch.ones(3))
    for bad in ([0.0, 0.0], [-1.0, 2.0], [float("nan"), 1.0]):
        with pytest.raises(ValueError, match="finite, at least 0"):
            mixture({"a": one, "b": one}, torch.tensor(bad))
    with pytest.raises(ValueError, match="empty"):
        mixture({}, SHARES)
