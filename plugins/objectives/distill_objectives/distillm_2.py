"""DistiLLM-2: skew forward KL on what the teacher wrote, skew reverse KL on what the student wrote.

Legend: N rows of a micro-batch, n rows of a chunk, B sequences, K support size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from distill_core.errors import TrainingError
from distill_core.interfaces import BuildContext
from distill_core.options import ScheduleRef
from distill_core.simplex import check_same_rows, on_simplex
from distill_core.types import LOG_FLOOR, RowInfo, RowTarget, SupportLogits, TeacherSignals, TokenBatch
from distill_objectives.rollouts.members import STUDENT
from distill_objectives.rollouts.options import DistiLLM2Options
from distill_objectives.rollouts.processes import summed

SMALLEST_ALPHA = 0.01
"""An adaptive alpha goes no lower."""

GAP_EPSILON = 1e-5
"""Added to the gap that an adaptive alpha is divided by."""


class DistiLLM2:
    """Contrastive distillation (DistiLLM-2, arXiv 2503.07067): mean over sequences of the mean over their tokens of::

        teacher's response (and the data's own):  (2 - beta) KL(p, alpha p + (1 - alpha) q)
        student's response:                             beta KL(q, (1 - alpha) p + alpha q)

    on the k+1 simplex, at temperature 1. With as many responses of both that is half the mean over pairs, as in the
    paper.

    ``adaptive_alpha``: a sequence whose teacher-student gap is small gets a smaller alpha,
    ``clip(1 - (1 - alpha) m / (gap + 1e-5), 0.01, alpha)``, where the gap is the difference of the two models'
    geometric mean token probability of the response (teacher less student on the teacher's, student less teacher on the
    student's) and m its mean over the earlier steps of this run. In the first step alpha is the option's.

    Args:
        options: ``alpha``, ``adaptive_alpha``, ``beta``.
    """

    properties: Mapping[str, bool] = {
        "zero_at_equality": True, "nonnegative": True, "lower_bound": True, "exact_gradient": True
    }  # fmt: skip

    def __init__(self, options: DistiLLM2Options) -> None:
        self.options = options
        beta = options.beta
        self._beta: Callable[[int, int], float] | None = None
        if not isinstance(beta, ScheduleRef):
            self._beta = lambda step, total_steps: float(beta)
        self._device = torch.device("cpu")
        self._known = [0.0] * 4  # sum and number of gaps: the teacher's responses, the student's
        self._step = [0.0] * 4

    def build(self, ctx: BuildContext) -> None:
        """
        Raises:
            TrainingError: a training without a rollout.
        """
        if ctx.rollout is None:
            raise TrainingError(
                "distillm-2 contrasts responses of the teacher and of the student, but the training has no rollout: "
                "add `rollout: {use: on-policy, pairs: true}` to train"
            )
        self._device = next(ctx.student.parameters()).device
        beta = self.options.beta
        if isinstance(beta, ScheduleRef):
            self._beta = ctx.build("schedule", {"use": beta.use, **beta.options})

    def temperatures(self, step: int, total_steps: int) -> tuple[float, ...]:
        return (1.0,)

    def count(self, batch: TokenBatch) -> float:
        """Sequences with a row."""
        return float(len(batch.rows().sequence_N.unique()))

    def prepare(self, batch: TokenBatch, signals: TeacherSignals, rows: RowInfo) -> Mapping[str, Tensor]:
        """Per row: ``share`` (1 / rows of its sequence), ``is_student``, ``alpha``."""
        tokens_B = torch.bincount(rows.sequence_N, minlength=len(batch.keys)).clamp_min(1)
        source_N = rows.extra.get("source")
        student_N = torch.zeros_like(rows.labels_N, dtype=torch.bool) if source_N is None else source_N == STUDENT
        alpha_N = torch.full(rows.labels_N.shape, self.options.alpha, device=rows.labels_N.device)
        if self.options.adaptive_alpha and source_N is not None:
            alpha_N = self._alphas(rows, tokens_B, student_N)
        return {"share": 1 / tokens_B[rows.sequence_N].float(), "is_student": student_N, "alpha": alpha_N}

    def _alphas(self, rows: RowInfo, tokens_B: Tensor, student_N: Tensor) -> Tensor:
        means = {}
        for name in ("teacher_logp", "student_logp"):
            value_N = rows.extra.get(name)
            if value_N is None or bool(torch.isnan(value_N).any()):
                raise TrainingError(
                    f"distillm-2 with adaptive_alpha reads {name} of every response, and the rollout does not give it: "
                    "set rollout.score: true"
                )
            total_B = torch.zeros(len(tokens_B), dtype=torch.float64, device=tokens_B.device)
            means[name] = (total_B.index_add(0, rows.sequence_N, value_N.double()) / tokens_B).exp()
        gap_B = means["teacher_logp"] - means["student_logp"]
        by_student_B = torch.zeros_like(tokens_B, dtype=torch.bool).index_put((rows.sequence_N,), student_N)
        seen_B = torch.zeros_like(by_student_B).index_fill(0, rows.sequence_N, True)
        gap_B = torch.where(by_student_B, -gap_B, gap_B)
        for at, chosen_B in ((0, seen_B & ~by_student_B), (2, seen_B & by_student_B)):
            self._step[at] += float(gap_B[chosen_B].sum())
            self._step[at + 1] += float(chosen_B.sum())
        means_known = [self._known[at] / self._known[at + 1] if self._known[at + 1] else None for at in (0, 2)]
        alpha_B = torch.full_like(gap_B, self.options.alpha)
        for chosen_B, mean in zip((~by_student_B, by_student_B), means_known, strict=True):
            if mean is not None:
                alpha_B = torch.where(chosen_B, adapted_alpha(gap_B, mean, self.options.alpha), alpha_B)
        return alpha_B[rows.sequence_N].float()

    def rows(self, support: SupportLogits, target: RowTarget | None, rows: RowInfo) -> Tensor:
        """[n] values in nat, each divided by the number of rows of its sequence."""
        if target is None:
            raise ValueError("distillm-2 compares with a teacher, but no target was given")
        if self._beta is None:
            raise RuntimeError("beta is a schedule: call build(ctx) before the first step")
        beta = float(self._beta(rows.step, rows.total_steps))
        if not 0 <= beta <= 2:
            raise ValueError(f"beta is {beta} at step {rows.step}; expected a number from 0 to 2")
        check_same_rows(support, target)
        teacher_nK1, student_nK1 = on_simplex(target, support, 1.0)
        alpha_n1 = rows.extra["alpha"].to(student_nK1.dtype)[:, None]
        student_n = rows.extra["is_student"]
        value_n = torch.where(
            student_n,
            beta * skew(student_nK1, teacher_nK1, alpha_n1),
            (2 - beta) * skew(teacher_nK1, student_nK1, alpha_n1),
        )
        return value_n * rows.extra["share"].to(value_n.dtype)

    def on_step_end(self, ctx: Any) -> None:
        """The gaps of the step, over all processes, become known."""
        if self.options.adaptive_alpha:
            step = summed(self._step, self._device)
            self._known = [known + new for known, new in zip(self._known, step, strict=True)]
            self._step = [0.0] * 4

    def state_dict(self) -> dict[str, Any]:
        return {"gaps": list(self._known)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._known = [float(value) for value in state["gaps"]]


def skew(first_nK1: Tensor, second_nK1: Tensor, alpha_n1: Tensor) -> Tensor:
    """[n] ``KL(a, alpha a + (1 - alpha) b)`` of log-probabilities a and b, an alpha for every row.

    >>> a, b = torch.tensor([[0.5, 0.3, 0.2]]).log(), torch.tensor([[0.4, 0.4, 0.2]]).log()
    >>> round(skew(a, b, torch.tensor([[0.1]])).item(), 5)
    0.02052
    """
    first_nK1, second_nK1 = first_nK1.clamp_min(LOG_FLOOR), second_nK1.clamp_min(LOG_FLOOR)
    mixture_nK1 = torch.logaddexp(first_nK1 + alpha_n1.log(), second_nK1 + torch.log1p(-alpha_n1))
    return (first_nK1.exp() * (first_nK1 - mixture_nK1)).sum(-1)


def adapted_alpha(gap_B: Tensor, mean: float, alpha: float) -> Tensor:
    """[B] ``clip(1 - (1 - alpha) mean / (gap + 1e-5), 0.01, alpha)``.

    >>> adapted_alpha(torch.tensor([0.1, 0.2, 0.4]), 0.2, 0.1).round(decimals=3)
    tensor([0.0100, 0.1000, 0.1000])
    """
    lowest = min(SMALLEST_ALPHA, alpha)
    return (1 - (1 - alpha) * mean / (gap_B + GAP_EPSILON)).clamp(lowest, alpha)
