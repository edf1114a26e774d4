"""Row weight ``progressive-steps``: the last steps of a rationale are learned first, earlier ones join later."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from distill_core.interfaces import BuildContext
from distill_core.types import RowInfo, TeacherSignals, TokenBatch
from distill_objectives.row_weights.options import ProgressiveStepsOptions


class ProgressiveSteps:
    """Weight 1 on the last steps of each sequence and 0 on earlier ones, which the student reads without being graded.

    The share of steps that count grows linearly from ``start`` to 1 over the first ``whole_after`` of training; the
    number of steps is rounded up, so the last step always counts.
    """

    def __init__(self, options: ProgressiveStepsOptions) -> None:
        self.options = options

    def build(self, ctx: BuildContext) -> None:
        tokenizer = ctx.tokenizer
        texts = (tokenizer.decode([index]) for index in range(len(tokenizer)))
        self.ends = torch.tensor([index for index, text in enumerate(texts) if self.options.step_end in text])

    def share(self, step: int, total_steps: int) -> float:
        """Share of the steps that count at an optimizer step."""
        done = min(1.0, step / (self.options.whole_after * total_steps))
        return self.options.start + (1 - self.options.start) * done

    def weights(self, batch: TokenBatch, signals: TeacherSignals, rows: RowInfo) -> Tensor:
        """[N] weights, 0 or 1, float32."""
        index, share = batch.rows(), self.share(rows.step, rows.total_steps)
        weight_N = torch.ones(len(index), device=index.labels_N.device)
        for sequence in index.sequence_N.unique().tolist():
            if self.options.domain is not None and batch.domains[sequence] != self.options.domain:
                continue
            own = index.sequence_N == sequence
            ends_n = torch.isin(index.labels_N[own], self.ends.to(index.labels_N.device))
            step_n = ends_n.cumsum(0) - ends_n.long()  # the token that ends a step belongs to it
            steps = int(step_n[-1]) + 1
            weight_N[own] = (step_n >= steps - math.ceil(share * steps)).float()
        return weight_N
