"""Cross-entropy of single sequences under the student or the teacher, for samplers that measure.

Legend: S sequences, B sequences of a batch, N rows, T token positions, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from distill_core.engine.data import collate
from distill_core.errors import TrainingError
from distill_core.plugin import Needs
from distill_core.types import SparseSpec, TokenBatch

RowLosses = Callable[[TokenBatch], Tensor]
"""[N] cross-entropy in nat at the rows of a batch."""


def sums_and_rows(
    losses: RowLosses, sequences: Sequence[Any], batch_sequences: int, *, who: str
) -> tuple[Tensor, Tensor]:
    """Per sequence the sum of its rows' losses, nat (float64 [S]), and its number of rows (int64 [S]).

    Raises:
        TrainingError: a loss that is NaN or infinite, naming whose.
    """
    totals, counts = [], []
    for start in range(0, len(sequences), batch_sequences):
        batch = collate([sequences[i] for i in range(start, min(start + batch_sequences, len(sequences)))])
        rows = batch.rows()
        loss_N = losses(batch).double().cpu()
        if not bool(torch.isfinite(loss_N).all()):
            raise TrainingError(f"the loss of {who} on the training data is NaN or infinite: look at its weights")
        size = len(batch.keys)
        totals.append(torch.zeros(size, dtype=torch.float64).index_add_(0, rows.sequence_N, loss_N))
        counts.append(torch.bincount(rows.sequence_N, minlength=size))
    return torch.cat(totals), torch.cat(counts)


def of_student(student: Any) -> RowLosses:
    """The student as it is now, in eval mode."""

    def losses(batch: TokenBatch) -> Tensor:
        device = next(student.parameters()).device
        on_device = batch.to(device)
        rows = on_device.rows()
        with torch.no_grad(), _evaluating(student):
            logits_BTV = student(
                input_ids=on_device.input_ids_BT, attention_mask=on_device.attention_mask_BT, use_cache=False
            ).logits
        return torch.nn.functional.cross_entropy(rows.select(logits_BTV).float(), rows.labels_N, reduction="none")

    return losses


def of_teacher(teacher: Any) -> RowLosses:
    """The exact log-probability that the teacher gives each label: its target on that one id and the rest."""
    needs = Needs(signals=frozenset({"targets"}), targets=("exact",), temperatures=(1.0,))

    def losses(batch: TokenBatch) -> Tensor:
        labels_N1 = batch.rows().labels_N[:, None]
        target = teacher.signals(batch, needs, SparseSpec("topk", 1, (1.0,), ids_NK=labels_N1)).target
        if target is None or not torch.equal(target.ids_NK.cpu(), labels_N1):
            raise TrainingError(
                f"the teacher {teacher.identity()} does not answer on given token ids, so its loss on a label is not "
                "known: use a teacher that runs here (hf), or give the losses"
            )
        logp_N: Tensor = target.log_probs(1.0)[:, 0]
        return -logp_N

    return losses


@contextmanager
def _evaluating(model: Any) -> Iterator[None]:
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
