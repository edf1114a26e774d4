"""Attention projections as signals: of the student while it trains, of the teacher when it answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel

from distill_core.engine.data import TokenDataset
from distill_core.errors import SignalError
from distill_core.options import Options
from distill_core.plugin import Needs
from distill_core.taps import tapped
from distill_core.types import LossTerm, StudentView, TeacherSignals, TokenBatch
from distill_teachers.hf import HFTeacher
from tests.conftest import make_tiny_llama
from tests.train.setting import numbers_tokenizer, objectives, registry_with_objectives, run_training


class ValueGap:
    """Mean square of the student's last values, and the teacher's beside it."""

    needs = Needs(signals=frozenset({"values", "queries"}), targets=())
    seen: ClassVar[list[tuple[Tensor, Tensor]]] = []

    def __init__(self, options: Options) -> None: ...

    def __call__(self, student: StudentView, teacher: TeacherSignals, batch: TokenBatch) -> LossTerm:
        assert set(student.extra) == {"values", "queries"}
        self.seen.append((student.extra["values"][-1], teacher.extra["values"][-1]))
        return LossTerm(student.extra["values"][-1].square().sum())


def teacher() -> HFTeacher:
    return HFTeacher.from_model(make_tiny_llama(seed=7, hidden_size=48), numbers_tokenizer())


def test_student_and_teacher_projections_reach_an_objective(
    tmp_path: Path, student_dir: Path, data: TokenDataset
) -> None:
    ValueGap.seen.clear()
    registry = registry_with_objectives()
    registry.register("objective", "values", ValueGap)
    config = {"teacher": "live", "objectives": objectives("values", "kl"), "max_steps": 1}
    run_training(tmp_path, student_dir=student_dir, data=data, teacher=teacher(), registry=registry, config=config)
    ((mine, theirs),) = ValueGap.seen
    assert mine.requires_grad and not theirs.requires_grad
    assert mine.shape[:2] == theirs.shape[:2]


def test_collected_is_what_the_layers_computed() -> None:
    model = make_tiny_llama(seed=1)
    ids = torch.tensor([[3, 5, 8]])
    with tapped(model.model, ["keys"]) as found:
        states = model.model(ids, output_hidden_states=True).hidden_states
    for layer, block, state in zip(found["keys"], model.model.layers, states, strict=False):
        torch.testing.assert_close(layer, block.self_attn.k_proj(block.input_layernorm(state)))
    with tapped(model.model, ()) as nothing:
        model.model(ids)
    assert nothing == {}


def test_a_model_without_separate_projections_is_refused() -> None:
    fused = GPT2LMHeadModel(GPT2Config(vocab_size=11, n_embd=8, n_layer=1, n_head=2))
    said = "no separate attention queries: a linear layer called q_proj or query"
    with pytest.raises(SignalError, match=said), tapped(fused, ["queries"]):
        pass


def test_a_layer_that_runs_twice_is_refused() -> None:
    model: Any = make_tiny_llama(seed=1)
    said = "were expected of one forward pass, 4 came: switch gradient checkpointing"
    with pytest.raises(SignalError, match=said), tapped(model, ["values"]):
        model(torch.tensor([[1, 2]]))
        model(torch.tensor([[1, 2]]))
    assert not any(isinstance(module, nn.Linear) and module._forward_hooks for module in model.modules())
