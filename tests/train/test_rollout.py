"""Rollouts, companions with a state, and what row objectives see beside the target."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from distill_core.config import RunConfig
from distill_core.engine.data import TokenDataset
from distill_core.errors import TrainingError
from distill_core.interfaces import BuildContext
from distill_core.options import Options
from distill_core.plugin import Needs
from distill_core.registry import Registry
from distill_core.types import RowInfo, RowTarget, TeacherSignals, TokenBatch
from tests.train.setting import objectives, registry_with_objectives, run_training, tiny_teacher
from tests.train.test_checkpoints import Stop, losses, stop_after


class Continues:
    """Replaces the second half of every sequence by what the student samples, keyed by seed, step and sequence."""

    def __init__(self, options: Options) -> None:
        self.written = 0

    def build(self, ctx: BuildContext) -> None:
        assert ctx.tokenizer is not None and ctx.directory is not None
        self.student, self.seed = ctx.student, ctx.seed

    def batches(self, step: int, batches: Sequence[TokenBatch]) -> list[TokenBatch]:
        assert not self.student.training and not torch.is_grad_enabled()
        self.written += len(batches)
        return [self._continued(batch, step) for batch in batches]

    def _continued(self, batch: TokenBatch, step: int) -> TokenBatch:
        logits = self.student(input_ids=batch.input_ids_BT, attention_mask=batch.attention_mask_BT).logits
        generator = torch.Generator().manual_seed(1000 * self.seed + step)
        half = batch.input_ids_BT.shape[1] // 2
        sampled = torch.multinomial(logits[:, half - 1].softmax(-1), 1, generator=generator)
        ids = batch.input_ids_BT.clone()
        ids[:, half] = sampled[:, 0]
        labels = torch.where(batch.labels_BT == -100, batch.labels_BT, ids)
        logp = torch.zeros(ids.shape)
        logp[:, half] = logits[:, half - 1].log_softmax(-1).gather(1, sampled)[:, 0]
        source = torch.arange(len(ids), dtype=torch.float32)
        return replace(
            batch,
            input_ids_BT=ids,
            labels_BT=labels,
            per_token={"behaviour_logp": logp},
            per_sequence={"source": source},
        )

    def state_dict(self) -> dict[str, Any]:
        return {"written": self.written}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.written = state["written"]


class TooFew(Continues):
    def batches(self, step: int, batches: Sequence[TokenBatch]) -> list[TokenBatch]:
        return super().batches(step, batches)[1:]


class Recorder:
    """Cross-entropy that remembers what it was shown."""

    seen: ClassVar[list[tuple[Tensor, Tensor, Tensor]]] = []

    def __init__(self, options: Options) -> None: ...

    def prepare(self, batch: TokenBatch, signals: TeacherSignals, rows: RowInfo) -> Mapping[str, Tensor]:
        later = rows.labels_N.flip(0).cumsum(0).flip(0)
        return {"labels_to_come": later.double()}

    def rows(self, support: Any, target: RowTarget | None, rows: RowInfo) -> Tensor:
        self.seen.append((rows.labels_N, rows.extra["labels_to_come"], rows.extra["source"]))
        return support.cross_entropy()


class OwnSupport:
    """Minus the mass of the student's five likeliest tokens: reads the student's support, not the teacher's."""

    student_support = 5
    shown: ClassVar[list[tuple[Tensor, Tensor, Tensor]]] = []

    def __init__(self, options: Options) -> None: ...

    def rows(self, support: Any, target: RowTarget | None, rows: RowInfo) -> Tensor:
        assert target is not None
        self.shown.append((support.ids_NK, support.support_NK.detach(), support.tail_NT.detach()))
        return -support.log_probs(1.0)[:, :-1].exp().sum(1)


def registry() -> Registry:
    found = registry_with_objectives()
    found.register("rollout", "continues", Continues)
    found.register("rollout", "too-few", TooFew)
    found.register("objective", "recorder", Recorder, needs=Needs(targets=()))
    found.register("objective", "own-support", OwnSupport, needs=Needs(frozenset({"targets"}), temperatures=(1.0,)))
    return found


CONFIG = {
    "teacher": "live",
    "max_steps": 5,
    "batch_sequences": 2,
    "accumulation_steps": 2,
    "save_steps": 2,
    "rollout": {"use": "continues"},
    "objectives": objectives("kl", "hard"),
}


def test_a_rollout_writes_the_sequences_and_a_resumed_run_the_same_ones(
    tmp_path: Path, student_dir: Path, data: TokenDataset
) -> None:
    def run(name: str, **changes: Any) -> Any:
        return run_training(
            tmp_path / name, student_dir=student_dir, data=data, teacher=tiny_teacher(), registry=registry(), **changes
        )

    whole = run("whole", config=CONFIG)
    off_policy = run("data", config={**CONFIG, "rollout": None})
    assert losses(whole.metrics) != losses(off_policy.metrics)
    with pytest.raises(Stop):
        run("killed", config=CONFIG, on_step=stop_after(3))
    resumed = run("killed", config=CONFIG)
    assert resumed.resumed_from_step == 2
    assert losses(resumed.metrics) == losses(whole.metrics)


def test_a_rollout_that_loses_a_micro_batch_is_refused(tmp_path: Path, student_dir: Path, data: TokenDataset) -> None:
    config = {**CONFIG, "rollout": {"use": "too-few"}}
    with pytest.raises(TrainingError, match="TooFew made 1 micro-batches of 2"):
        run_training(
            tmp_path, student_dir=student_dir, data=data, teacher=tiny_teacher(), registry=registry(), config=config
        )


def test_a_checkpoint_with_another_companion_is_refused(tmp_path: Path, student_dir: Path, data: TokenDataset) -> None:
    from distill_core.engine.companions import Companions

    companions = Companions({"rollout": Continues(Options()), "teacher": None})
    assert companions.state_dict() == {"rollout": {"written": 0}}
    companions.load_state_dict({"rollout": {"written": 4}})
    assert companions.members["rollout"].written == 4
    with pytest.raises(TrainingError, match=r"state of no companion .* has \['rollout'\]"):
        companions.load_state_dict({})


@pytest.mark.parametrize("chunk_rows", [None, 7])
def test_row_objectives_see_what_the_batch_and_prepare_say(
    tmp_path: Path, student_dir: Path, data: TokenDataset, chunk_rows: int | None
) -> None:
    Recorder.seen.clear()
    config = {**CONFIG, "max_steps": 1, "objectives": objectives("recorder"), "chunk_rows": chunk_rows}
    config["accumulation_steps"] = 1
    run_training(
        tmp_path, student_dir=student_dir, data=data, teacher=tiny_teacher(), registry=registry(), config=config
    )
    labels_N, later_N, source_N = (torch.cat(parts) for parts in zip(*Recorder.seen, strict=True))
    assert len(Recorder.seen) > 1 if chunk_rows else len(Recorder.seen) == 1
    assert torch.equal(later_N.long(), labels_N.flip(0).cumsum(0).flip(0))
    assert source_N.unique().tolist() == [0.0, 1.0]


def test_student_support_is_the_students_likeliest_tokens(
    tmp_path: Path, student_dir: Path, data: TokenDataset
) -> None:
    OwnSupport.shown.clear()
    config = {**CONFIG, "rollout": None, "max_steps": 1, "objectives": objectives("own-support", "kl")}
    run_training(
        tmp_path, student_dir=student_dir, data=data, teacher=tiny_teacher(), registry=registry(), config=config
    )
    ids_NK, logits_NK, tail_NT = OwnSupport.shown[0]
    assert ids_NK.shape[1] == 5
    # Were another token among the five likeliest, the remaining 92 would weigh more than 92 of the fifth.
    assert bool((tail_NT[:, 0] <= logits_NK.min(dim=1).values + math.log(97 - 5)).all())
    assert bool((logits_NK.diff(dim=1) <= 0).all())


def test_compare_switches_a_rollout_off() -> None:
    source = {"source": {"use": "rows"}}
    config = RunConfig.model_validate(
        {
            "name": "run",
            "output_dir": "out",
            "data": {"train": source, "eval": source},
            "student": {"init": {"model": "m"}},
            "train": {"teacher": "live", "rollout": {"use": "continues"}, "sparse": {"method": "topk", "k": 4}},
            "compare": {"offline": {"rollout": None}, "same": {"learning_rate": 1e-3}},
        }
    )
    trainings = config.trainings()
    assert trainings["offline"].rollout is None and trainings["offline"].sparse is not None
    assert trainings["same"].rollout == trainings["student"].rollout is not None
