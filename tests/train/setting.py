"""A small world to train in: data on disk, a dense teacher, objectives of our own, and a `train` call with defaults."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from distill_core import divergence, ops
from distill_core.config import InitConfig, ObjectiveRef, StudentConfig, TrainConfig
from distill_core.engine.data import SCHEMA, TOKENS_FILE, TokenDataset
from distill_core.engine.progress import Progress
from distill_core.engine.training import TrainResult, train
from distill_core.interfaces import BuildContext, VocabularyInfo
from distill_core.options import Options
from distill_core.plugin import Needs
from distill_core.registry import Registry
from distill_core.store import vocabulary_info
from distill_core.types import LossTerm, RowInfo, RowTarget, SparseSpec, StudentView, TeacherSignals, TokenBatch
from tests.conftest import make_tiny_llama

LENGTHS = (23, 17, 9, 30, 12, 5, 26, 14, 19, 8, 21, 16)
"""Awkward lengths, so that sums and means of means differ."""


@divergence(linear_in_teacher=True)
def kl(teacher_logp: Tensor, student_logp: Tensor) -> Tensor:
    return (teacher_logp.exp() * (teacher_logp - student_logp)).sum(-1)


@divergence
def total_variation(teacher_logp: Tensor, student_logp: Tensor) -> Tensor:
    return 0.5 * (teacher_logp.exp() - student_logp.exp()).abs().sum(-1)


class HardLabels:
    """Cross-entropy."""

    def __init__(self, options: Options) -> None: ...

    def rows(self, support: Any, target: RowTarget | None, rows: RowInfo) -> Tensor:
        return support.cross_entropy()


class HiddenGap(nn.Module):
    """Squared difference of the last hidden states through a learned map, counted by tokens, not by rows."""

    needs = Needs(signals=frozenset({"hidden_states"}), targets=())

    def __init__(self, options: Options) -> None:
        super().__init__()
        self.map = nn.Linear(1, 1)

    def build(self, ctx: BuildContext) -> None:
        generator = torch.Generator().manual_seed(ctx.seed)
        student, teacher = ctx.student.config.hidden_size, ctx.teacher_config.hidden_size
        self.map = nn.Linear(student, teacher, bias=False, dtype=next(ctx.student.parameters()).dtype)
        with torch.no_grad():
            self.map.weight.normal_(0, student**-0.5, generator=generator)

    def count(self, batch: TokenBatch) -> float:
        return float(batch.attention_mask_BT.sum())

    def forward(self, student: StudentView, teacher: TeacherSignals, batch: TokenBatch) -> LossTerm:
        gap_BTD = self.map(student.hidden_states[-1]) - teacher.hidden_states[-1].to(self.map.weight.dtype)
        mask_BT = batch.attention_mask_BT.bool()
        total = gap_BTD[mask_BT].square().mean(dim=-1).sum()
        return LossTerm(total=total, metrics={"rms": float(total.detach()) ** 0.5})


class Sharpened:
    """A row objective with a parameter and a counter of its own: cross-entropy times a learned factor."""

    def __init__(self, options: Options) -> None:
        self.factor = nn.Parameter(torch.tensor(1.5))
        self.steps = 0

    def build(self, ctx: BuildContext) -> None:
        self.factor = nn.Parameter(self.factor.detach().to(next(ctx.student.parameters()).dtype))

    def parameters(self) -> list[nn.Parameter]:
        return [self.factor]

    def rows(self, support: Any, target: RowTarget | None, rows: RowInfo) -> Tensor:
        return support.cross_entropy() * self.factor

    def on_step_end(self, ctx: Any) -> None:
        self.steps += 1

    def state_dict(self) -> dict[str, Any]:
        return {"factor": self.factor.detach().clone(), "steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        with torch.no_grad():
            self.factor.copy_(state["factor"])
        self.steps = state["steps"]


class RampOptions(Options):
    start: float
    end: float


class Ramp:
    """A schedule: straight from start to end."""

    def __init__(self, options: RampOptions) -> None:
        self.options = options

    def __call__(self, step: int, total_steps: int) -> float:
        share = step / max(1, total_steps - 1)
        return self.options.start + share * (self.options.end - self.options.start)


def registry_with_objectives() -> Registry:
    """No installed plugin: what the tests name is what is defined here."""
    registry = Registry()
    registry.register("objective", "kl", kl)
    registry.register("objective", "tv", total_variation)
    registry.register("objective", "hard", HardLabels, needs=Needs(targets=()))
    registry.register("objective", "gap", HiddenGap)
    registry.register("objective", "sharpened", Sharpened, needs=Needs(targets=()))
    registry.register("schedule", "ramp", Ramp, options=RampOptions)
    return registry


class DenseTeacher:
    """A live teacher over a dense model: exact top-k targets and hidden states."""

    def __init__(self, model: Any, *, k: int = 8) -> None:
        self.model = model.eval()
        self.k = k
        self.asked: list[tuple[Needs, SparseSpec | None]] = []

    def signals(self, batch: TokenBatch, needs: Needs, sparse: SparseSpec | None = None) -> TeacherSignals:
        self.asked.append((needs, sparse))
        output = self.model(
            input_ids=batch.input_ids_BT, attention_mask=batch.attention_mask_BT, output_hidden_states=True
        )
        target = None
        if "targets" in needs.signals:
            temperatures = needs.temperatures or (1.0,)
            top = ops.topk_logits(batch.rows().select(output.logits), self.k, temperatures=temperatures)
            target = RowTarget("exact", top.ids_NK, tuple(temperatures), logits_NK=top.logits_NK, tail_NM=top.tail_NT)
        wanted = "hidden_states" in needs.signals
        return TeacherSignals(target=target, hidden_states=output.hidden_states if wanted else None)

    def tokenizer(self) -> Any:
        return numbers_tokenizer(self.model.config.vocab_size)

    def vocabulary(self) -> VocabularyInfo:
        return vocabulary_info(self.tokenizer())

    def identity(self) -> str:
        return "dense-teacher@1"


def write_data(
    directory: Path, *, lengths: Sequence[int] = LENGTHS, vocabulary: int = 97, seed: int = 0
) -> TokenDataset:
    """Random sequences in the format of the data stage; the first three tokens of every second one are a prompt."""
    generator = np.random.default_rng(seed)
    rows = []
    for index, length in enumerate(lengths):
        ids = generator.integers(3, vocabulary, length).astype(np.int32)
        predict = None if index % 2 else [position >= 3 for position in range(length)]
        key = hashlib.blake2b(ids.tobytes(), digest_size=16).digest()
        rows.append({"input_ids": ids.tolist(), "predict": predict, "document": f"d{index}", "key": key, "domain": ""})
    directory.mkdir(parents=True, exist_ok=True)
    table = pa.Table.from_pylist(rows, schema=SCHEMA)
    with pa.OSFile(str(directory / TOKENS_FILE), "wb") as sink, pa.ipc.new_file(sink, SCHEMA) as writer:
        writer.write_table(table)
    return TokenDataset.open(directory)


def save_student(directory: Path, model: Any) -> Path:
    model.save_pretrained(directory)
    return directory


def numbers_tokenizer(size: int = 97) -> Any:
    """Words `t0 t1 ...`, as many as the tiny models have rows."""
    words = Tokenizer(WordLevel({f"t{i}": i for i in range(size)}, unk_token="t0"))
    return PreTrainedTokenizerFast(tokenizer_object=words, pad_token="t0")


def objectives(*names: str | dict[str, Any]) -> list[ObjectiveRef]:
    return [ObjectiveRef.model_validate({"use": name} if isinstance(name, str) else name) for name in names]


def run_training(
    directory: Path,
    *,
    student_dir: Path,
    data: TokenDataset,
    teacher: Any = None,
    student: StudentConfig | None = None,
    registry: Registry | None = None,
    config: dict[str, Any] | None = None,
    **changes: Any,
) -> TrainResult:
    """`train` with defaults that fit the tests: two steps, constant learning rate."""
    settings: dict[str, Any] = {"max_steps": 2, "learning_rate": 1e-2, "lr_schedule": "constant", **(config or {})}
    arguments: dict[str, Any] = {
        "student_dir": student_dir,
        "student": student or StudentConfig(init=InitConfig(model=str(student_dir))),
        "tokenizer": numbers_tokenizer(),
        "train_data": data,
        "eval_data": None,
        "config": TrainConfig(**settings),
        "teacher": teacher,
        "directory": directory,
        "seed": 3,
        "registry": registry or registry_with_objectives(),
        "progress": Progress(quiet=True),
        **changes,
    }
    return train(**arguments)


def tiny_teacher(**changes: Any) -> DenseTeacher:
    """A teacher of another width than the tiny student."""
    return DenseTeacher(make_tiny_llama(seed=7, hidden_size=48, **changes))
