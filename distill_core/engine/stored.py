"""The teacher over a store: rows captured before, for sequences known by their content.

Legend: B sequences, T token positions, N rows, K support size, M temperatures.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distill_core.errors import SignalError
from distill_core.interfaces import VocabularyInfo
from distill_core.store import RowArrays, StoreMeta, StoreReader
from distill_core.types import Needs, RowTarget, SparseSpec, TeacherSignals, TokenBatch


class StoredSignals:
    """A teacher that reads what a capture stored; the teacher's weights are not needed.

    A sequence is found by its token ids, whatever batch, order or process it was captured in; any prefix of a stored
    sequence is served too.

    Args:
        directory: a finished store.
        checksums: compare each shard's sha256 when it is first read.
        draw: which of the ``meta.draws`` stored samples to answer with; may be set between batches.

    Raises:
        StoreError: not a store, damaged, or unfinished.
        SignalError: a draw that the store does not hold.
    """

    def __init__(self, directory: Path | str, *, checksums: bool = True, draw: int = 0) -> None:
        self.directory = Path(directory)
        self.reader = StoreReader(self.directory, checksums=checksums)
        self.draw = draw

    @property
    def meta(self) -> StoreMeta:
        """What the store says about itself."""
        return self.reader.meta

    @property
    def draw(self) -> int:
        """Which of the stored samples answers, from 0."""
        return self._draw

    @draw.setter
    def draw(self, value: int) -> None:
        if not 0 <= value < self.meta.draws:
            raise SignalError(f"draw {value} was asked of the store {self.directory}, which holds {self.meta.draws}")
        self._draw = value

    def vocabulary(self) -> VocabularyInfo:
        """Size and fingerprint of the tokenizer the capture was made with."""
        return VocabularyInfo(self.meta.vocabulary_size, self.meta.tokenizer_fingerprint, f"the store {self.directory}")

    def identity(self) -> str:
        """The identity of the teacher that was captured."""
        return self.meta.teacher

    def signals(self, batch: TokenBatch, needs: Needs, sparse: SparseSpec | None = None) -> TeacherSignals:
        """The stored targets at ``batch.rows()``, on the device of the batch; ``sparse`` is not read.

        Raises:
            SignalError: a signal other than targets, or a temperature that was not captured.
            StoreError: a sequence that is neither stored nor a prefix of a stored one, or a damaged shard.
        """
        lacking = sorted(needs.signals - {"targets"})
        if lacking:
            raise SignalError(
                f"the store {self.directory} holds targets alone, but {lacking} were asked for: use a live teacher "
                "(train.teacher: live)"
            )
        self._check_temperatures(needs)
        if "targets" not in needs.signals:
            return TeacherSignals()
        return TeacherSignals(target=self._target(batch))

    def _check_temperatures(self, needs: Needs) -> None:
        held = self.meta.temperatures
        if needs.temperatures is None:
            raise SignalError(
                f"a temperature that is not known beforehand was asked for, but the store {self.directory} holds "
                f"{list(held)} alone: list the schedule's values and capture them, or use a live teacher"
            )
        if set(needs.temperatures) - set(held):
            raise SignalError(
                f"temperatures {list(needs.temperatures)} were asked for, but the store {self.directory} holds "
                f"{list(held)}: capture them (capture.temperatures, method: topk), or use a live teacher"
            )

    def _target(self, batch: TokenBatch) -> RowTarget:
        device = batch.input_ids_BT.device
        rows = batch.rows()
        sequence_N, position_N = rows.sequence_N.cpu().numpy(), rows.position_N.cpu().numpy()
        ids_BT = batch.input_ids_BT.cpu().numpy()
        lengths_B = batch.attention_mask_BT.cpu().numpy().sum(axis=1)
        ends_B = np.searchsorted(sequence_N, np.arange(len(ids_BT) + 1))
        parts = []
        for index, length in enumerate(lengths_B.tolist()):
            positions_n = position_N[ends_B[index] : ends_B[index + 1]]
            if len(positions_n):
                parts.append(self.reader.rows(ids_BT[index, :length], positions_n, draw=self.draw))
        return row_target(parts, self.meta).to(device)


def row_target(parts: Sequence[RowArrays], meta: StoreMeta) -> RowTarget:
    """Rows of several sequences below each other as tensors; no parts: a target of no rows.

    Args:
        parts: rows of equal kind, as a store of ``meta`` holds them.
        meta: gives kind, width and temperatures where there are no rows.
    """
    width = max((part.k for part in parts), default=meta.k)

    def column(name: str, fill: float) -> Tensor | None:
        values = [getattr(part, name) for part in parts]
        if not values or values[0] is None:
            return None
        return torch.from_numpy(np.concatenate([_widened(value, width, fill, name) for value in values]))

    if not parts:
        return _no_rows(meta)
    ids_NK = column("ids", -1)
    assert ids_NK is not None
    return RowTarget(
        kind=meta.kind,
        ids_NK=ids_NK.long(),
        temperatures=meta.temperatures,
        logits_NK=column("logits", 0.0),
        tail_NM=column("tail", 0.0),
        weights_NK=column("weights", 0.0),
        entropy_N=column("entropy", 0.0),
        threshold_N=column("threshold", 0.0),
    )


def _widened(value: NDArray[Any], width: int, fill: float, name: str) -> NDArray[Any]:
    value = value.astype(np.int64 if name == "ids" else np.float32)
    if name in ("ids", "logits", "weights") and value.shape[1] < width:
        return np.pad(value, ((0, 0), (0, width - value.shape[1])), constant_values=fill)
    return value


def _no_rows(meta: StoreMeta) -> RowTarget:
    empty_NK, exact = torch.zeros(0, meta.k), meta.kind == "exact"
    return RowTarget(
        kind=meta.kind,
        ids_NK=empty_NK.long(),
        temperatures=meta.temperatures,
        logits_NK=empty_NK if exact else None,
        tail_NM=torch.zeros(0, len(meta.temperatures)) if exact else None,
        weights_NK=None if exact else empty_NK,
        entropy_N=None if exact else torch.zeros(0),
        threshold_N=torch.zeros(0) if meta.method == "threshold" else None,
    )
