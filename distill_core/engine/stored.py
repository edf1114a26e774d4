"""The teacher over a store: rows captured before, for sequences known by their content.

Legend: B sequences, T token positions, N rows.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from distill_core.engine.unpack import unpack
from distill_core.errors import SignalError
from distill_core.interfaces import VocabularyInfo
from distill_core.store import StoreMeta, StoreReader
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
        """The stored targets at ``batch.rows()``, on the device of the batch (a GPU unpacks them itself); ``sparse`` is
        not read.

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
                parts.append(self.reader.packed(ids_BT[index, :length], positions_n, draw=self.draw))
        return unpack(parts, self.meta, device)
