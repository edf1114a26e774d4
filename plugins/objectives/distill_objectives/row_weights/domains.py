"""Row weight ``domains``: how much the rows of a record count, by the record's domain."""

from __future__ import annotations

import torch
from torch import Tensor

from distill_core.errors import TrainingError
from distill_core.types import RowInfo, TeacherSignals, TokenBatch
from distill_objectives.row_weights.options import DomainsOptions


class Domains:
    """A weight by domain, e.g. ``{rationale: 0}`` for a baseline that learns the answers of the same data alone."""

    def __init__(self, options: DomainsOptions) -> None:
        self.options = options

    def weights(self, batch: TokenBatch, signals: TeacherSignals, rows: RowInfo) -> Tensor:
        """[N] weights, float32. Raises ``TrainingError`` where the data names no domains."""
        if not any(batch.domains):
            raise TrainingError(
                f"row weights by domain ({', '.join(self.options.weights)}), but no record of the batch has a "
                "`domain`: name them in the data, or leave row_weights out"
            )
        weights = [self.options.weights.get(domain, self.options.default) for domain in batch.domains]
        return torch.tensor(weights, device=rows.sequence_N.device)[rows.sequence_N]
