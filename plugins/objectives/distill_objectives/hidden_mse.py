"""Hidden states of the student close to the teacher's, through learned projections where widths differ.

Legend: B sequences, T positions, N rows, L layers (blocks), S student width, D teacher width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import nn

from distill_core.errors import SignalError
from distill_core.interfaces import BuildContext
from distill_core.types import LossTerm, StudentView, TeacherSignals, TokenBatch
from distill_objectives.options import HiddenMSEOptions


def layer_pairs(
    layers: Literal["uniform", "last"] | Sequence[tuple[int, int]], student_layers: int, teacher_layers: int
) -> list[tuple[int, int]]:
    """Pairs (student, teacher) of hidden states to compare; 0 are the embeddings, i is the output of block i.

    ``uniform`` is TinyBERT's map g(i) = i L_t / L_s, rounded, for i = 1 ... L_s.

    Raises:
        SignalError: a pair names a layer that does not exist.
    """
    if isinstance(layers, str):
        if layers == "last":
            return [(student_layers, teacher_layers)]
        return [(i, round(i * teacher_layers / student_layers)) for i in range(1, student_layers + 1)]
    pairs = [(int(student), int(teacher)) for student, teacher in layers]
    for student, teacher in pairs:
        if student > student_layers or teacher > teacher_layers:
            raise SignalError(
                f"hidden-mse: layers names the pair [{student}, {teacher}], but the student has hidden states 0 .. "
                f"{student_layers} and the teacher 0 .. {teacher_layers} (0: the embeddings)"
            )
    return pairs


def _depth_and_width(config: Any) -> tuple[int, int]:
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    return int(text.num_hidden_layers), int(text.hidden_size)


class HiddenMSE(nn.Module):
    """Mean squared difference of hidden states (TinyBERT, arXiv 1909.10351, equation 8; normalised as in patient
    distillation, arXiv 1908.09355, equation 7, with ``normalize``).

    Per row, the mean over the layer pairs and the teacher's D dimensions of ``(h_student W - h_teacher)^2``; the sum of
    the rows, each with its token weight, is divided by the number of rows, as for row objectives. W is learned and
    not exported. The last hidden state of a Transformers model is the one after the final norm.

    Args:
        options: ``layers``, ``projection``, ``normalize``.

    Raises:
        SignalError: the teacher gives no hidden states, widths differ with ``projection: none``, a layer is missing.

    >>> objective = HiddenMSE(HiddenMSEOptions(layers="last"))
    >>> objective.options.projection
    'auto'
    """

    exported = False

    def __init__(self, options: HiddenMSEOptions) -> None:
        super().__init__()
        self.options = options
        self.pairs: list[tuple[int, int]] = []
        self.projections = nn.ModuleList()

    def build(self, ctx: BuildContext) -> None:
        """Choose the layers and make the projections, from the run's seed, on the student's device, in fp32."""
        if ctx.teacher_config is None:
            raise SignalError(
                "hidden-mse needs the teacher's hidden states, but the teacher has no Transformers configuration (a "
                "store keeps none): set train.teacher: live with a teacher that provides hidden_states"
            )
        student_layers, student_width = _depth_and_width(ctx.student.config)
        teacher_layers, teacher_width = _depth_and_width(ctx.teacher_config)
        self.pairs = layer_pairs(self.options.layers, student_layers, teacher_layers)
        if self.options.projection == "none" and student_width != teacher_width:
            raise SignalError(
                f"hidden-mse: the student's hidden states have {student_width} dimensions and the teacher's "
                f"{teacher_width}; projection: none needs equal widths, use projection: auto"
            )
        projected = self.options.projection == "linear" or student_width != teacher_width
        self.projections = nn.ModuleList()
        if projected:
            self._make_projections(student_width, teacher_width, ctx)

    def _make_projections(self, student_width: int, teacher_width: int, ctx: BuildContext) -> None:
        device = next(ctx.student.parameters()).device
        generator = torch.Generator().manual_seed(ctx.seed)
        for _ in self.pairs:
            projection = nn.Linear(student_width, teacher_width, bias=False)
            with torch.no_grad():
                projection.weight.normal_(0.0, student_width**-0.5, generator=generator)
            self.projections.append(projection.to(device))

    def forward(self, student: StudentView, teacher: TeacherSignals, batch: TokenBatch) -> LossTerm:
        """The weighted sum over the batch's rows."""
        if teacher.hidden_states is None:
            raise SignalError("hidden-mse needs the teacher's hidden states, but the teacher sent none")
        if not self.pairs:
            raise RuntimeError("hidden-mse: call build(ctx) before the first batch")
        rows = batch.rows()
        total = torch.zeros((), device=student.hidden_states[-1].device)
        metrics: dict[str, float] = {}
        for index, (i, j) in enumerate(self.pairs):
            student_NS = rows.select(student.hidden_states[i]).float()
            teacher_ND = rows.select(teacher.hidden_states[j]).float()
            predicted_ND = self.projections[index](student_NS) if len(self.projections) else student_NS
            if self.options.normalize:
                predicted_ND = nn.functional.normalize(predicted_ND, dim=-1)
                teacher_ND = nn.functional.normalize(teacher_ND, dim=-1)
            error_N = (predicted_ND - teacher_ND.detach()).square().mean(dim=-1)
            term = (error_N * rows.weights_N).sum()
            metrics[f"layer_{i}_to_{j}"] = float(term.detach())
            total = total + term / len(self.pairs)
        return LossTerm(total=total, metrics=metrics)

    def __call__(self, student: StudentView, teacher: TeacherSignals, batch: TokenBatch) -> LossTerm:
        result: LossTerm = super().__call__(student, teacher, batch)
        return result
