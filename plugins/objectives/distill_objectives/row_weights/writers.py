"""Row weight ``writers``: how much the rows of a sequence count, by who wrote it."""

from __future__ import annotations

import torch
from torch import Tensor

from distill_core.errors import TrainingError
from distill_core.types import RowInfo, TeacherSignals, TokenBatch
from distill_objectives.rollouts.members import DATA, STUDENT, TEACHER
from distill_objectives.row_weights.options import WritersOptions


class Writers:
    """A weight by the writer of a sequence, as the rollout noted it: the source of a prefix and the direction of a
    divergence are chosen apart, row by row (arXiv 2605.16826). ``forward-kl`` with ``{student: 0}`` beside
    ``reverse-kl`` with ``{teacher: 0, data: 0}`` couples them as sequence-level KLs do; any other pair uncouples them.
    """

    def __init__(self, options: WritersOptions) -> None:
        self.by_source = {DATA: options.data, STUDENT: options.student, TEACHER: options.teacher}

    def weights(self, batch: TokenBatch, signals: TeacherSignals, rows: RowInfo) -> Tensor:
        """[N] weights, float32; those of ``data`` where there is no rollout. Raises ``TrainingError`` for an unknown
        source."""
        source_B = batch.per_sequence.get("source")
        if source_B is None:
            return torch.full(rows.sequence_N.shape, self.by_source[DATA], device=rows.sequence_N.device)
        sources = [int(source) for source in source_B.tolist()]
        unknown = sorted(set(sources) - set(self.by_source))
        if unknown:
            raise TrainingError(
                f"row weights by writer know the sources {DATA} (data), {STUDENT} (student) and {TEACHER} (teacher), "
                f"but the rollout's batch holds {unknown}: leave row_weights out, or use the rollout on-policy"
            )
        weights = [self.by_source[source] for source in sources]
        return torch.tensor(weights, device=rows.sequence_N.device)[rows.sequence_N]
