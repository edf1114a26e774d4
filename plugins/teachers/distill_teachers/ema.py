"""The ``ema`` teacher: an average of the student's own weights over the steps so far."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from distill_core.engine.head import remove_fused_head
from distill_core.errors import SignalError, TrainingError
from distill_core.interfaces import BuildContext, StepContext, VocabularyInfo
from distill_core.types import Needs, SparseSpec, TeacherSignals, TokenBatch
from distill_teachers.hf import HFTeacher
from distill_teachers.options import EMAOptions, HFOptions
from distill_teachers.weights import find_weights, load_model


class EMATeacher:
    """Exponential moving average of the student, as in the mean teacher (Tarvainen & Valpola 2017, arXiv 1703.01780).

    After optimizer step n (every ``every_steps``-th of them) ``average <- d average + (1 - d) student`` with
    ``d = min(decay, (1 + u) / (10 + u))`` after u earlier updates, or ``d = decay`` without ``warmup``. The average
    starts as the initial student, or as ``model``. It is kept in float32, whatever the student trains in: the steps of
    a slow average are below the resolution of bfloat16. It answers by the code of the ``hf`` teacher.

    It exists only while a student trains: there is no ``model`` to evaluate or to capture.

    Args:
        options: decay, warm-up, how often, what it starts from.

    >>> EMATeacher(EMAOptions(decay=0.99)).identity()
    "average of the student's weights (decay 0.99)"
    """

    def __init__(self, options: EMAOptions) -> None:
        self.options = options
        self.updates = 0
        self._student: Any = None
        self._answers: HFTeacher | None = None

    def build(self, ctx: BuildContext) -> None:
        """Copy the student, or load the start model.

        Raises:
            TrainingError: the start model's parameters are not those of the student.
        """
        average = copy.deepcopy(ctx.student)
        remove_fused_head(average)
        average = average.float().requires_grad_(False)
        self._student, self.updates = ctx.student, 0
        if self.options.model is not None:
            self._start_from(average, self.options.model)
        self._answers = HFTeacher.from_model(average, ctx.tokenizer, label="ema")

    def _start_from(self, average: Any, name: str) -> None:
        options = HFOptions(model=name, dtype="float32", device="cpu")
        start = load_model(find_weights(options, torch.float32), options, torch.device("cpu"), torch.float32)
        given, expected = dict(start.named_parameters()), dict(average.named_parameters())
        differing = sorted(
            {*given, *expected} - {key for key in given if key in expected and given[key].shape == expected[key].shape}
        )
        if differing:
            raise TrainingError(
                f"the ema teacher cannot start from {name}: {len(differing)} parameters are not those of the student "
                f"({', '.join(differing[:3])}): give a model of the student's architecture and size, without adapters"
            )
        average.load_state_dict(start.state_dict())

    @property
    def _average(self) -> Any:
        if self._answers is None:
            raise SignalError(
                "the ema teacher is the average of a student that trains, and none does: it can be learned from with "
                "train.teacher: live, but not captured, cut or evaluated"
            )
        return self._answers.model

    @torch.no_grad()
    def on_step_end(self, ctx: StepContext) -> None:
        """Move the average towards the student."""
        if ctx.step % self.options.every_steps:
            return
        decay = self.options.decay
        if self.options.warmup:
            decay = min(decay, (1 + self.updates) / (10 + self.updates))
        own = dict(self._average.named_parameters())
        for name, parameter in self._student.named_parameters():
            if name in own:
                own[name].lerp_(_whole(parameter).to(own[name]), 1 - decay)
        buffers = dict(self._student.named_buffers())
        for name, buffer in self._average.named_buffers():
            if name in buffers:
                buffer.copy_(buffers[name])
        self.updates += 1

    def state_dict(self) -> dict[str, Any]:
        """The average and the number of updates; weights of the student that do not train are left out."""
        moving = {name: value.detach() for name, value in self._average.named_parameters() if self._moves(name)}
        return {"updates": self.updates, "average": moving}

    def _moves(self, name: str) -> bool:
        parameter = dict(self._student.named_parameters()).get(name)
        return self.options.model is not None or parameter is None or parameter.requires_grad

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        own = dict(self._average.named_parameters())
        for name, value in state["average"].items():
            own[name].copy_(value)
        self.updates = int(state["updates"])

    def signals(self, batch: TokenBatch, needs: Needs, sparse: SparseSpec | None = None) -> TeacherSignals:
        """As the ``hf`` teacher gives them, of the present average."""
        average = self._average
        device = next(self._student.parameters()).device
        if next(average.parameters()).device != device:
            average.to(device)
        assert self._answers is not None
        self._answers.device = device
        return self._answers.signals(batch, needs, sparse)

    def vocabulary(self) -> VocabularyInfo:
        """Of the student's tokenizer."""
        assert self._average is not None and self._answers is not None
        return self._answers.vocabulary()

    def tokenizer(self) -> Any:
        """The student's tokenizer."""
        assert self._average is not None and self._answers is not None
        return self._answers.tokenizer()

    def identity(self) -> str:
        return f"average of the student's weights (decay {self.options.decay})"


def _whole(parameter: Tensor) -> Tensor:
    """A parameter's values; gathered where it is sharded, which every process does in the same order."""
    value = parameter.detach()
    gather = getattr(value, "full_tensor", None)
    return gather() if gather is not None else value
