"""Full KD: forward KL over the whole vocabulary, computed densely, as the reference that sparse targets are held to.

Nothing of the library's own losses is in it, so that the reference does not share their mistakes. A live teacher gives
its last hidden states; both heads are applied here and every probability is used.

Legend: B sequences, T positions, N rows, D hidden, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from distill_core.interfaces import BuildContext
from distill_core.plugin import Needs
from distill_core.types import LossTerm, StudentView, TeacherSignals, TokenBatch

NAME = "dense-forward-kl"


class DenseForwardKL:
    """``sum_v p_v (log p_v - log q_v)`` at every row, summed; for heads that are linear layers and one process.

    Args:
        options: none.
    """

    needs = Needs(signals=frozenset({"hidden_states"}))

    def __init__(self, options: Any = None) -> None:
        self.student_head: Any = None
        self.teacher_head: Any = None

    def build(self, ctx: BuildContext) -> None:
        student: Any = ctx.student
        self.student_head = student.get_output_embeddings()
        self.teacher_head = ctx.teacher.model.get_output_embeddings()

    def __call__(self, student: StudentView, teacher: TeacherSignals, batch: TokenBatch) -> LossTerm:
        assert teacher.hidden_states is not None
        rows = batch.rows()
        with torch.no_grad():
            teacher_ND = rows.select(teacher.hidden_states[-1])
            logp_NV = logits(teacher_ND, self.teacher_head).log_softmax(1)
        logq_NV = logits(rows.select(student.hidden_states[-1]), self.student_head).log_softmax(1)
        return LossTerm(nn.functional.kl_div(logq_NV, logp_NV, reduction="sum", log_target=True))


def logits(hidden_ND: Tensor, head: Any) -> Tensor:
    """[N, V] of a linear head, past any forward of its own."""
    return nn.functional.linear(hidden_ND, head.weight, head.bias)


def register() -> None:
    """Make it known to this process as an objective."""
    import distill_core

    distill_core.register("objective", NAME, DenseForwardKL)
