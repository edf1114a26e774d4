"""Which sequences an optimizer step sees, and how they are split over micro-batches and processes.

Step s takes sequences ``s * G .. (s + 1) * G`` of an endless stream: one seeded permutation of the data after another.
G is the number of sequences of a step over all processes and accumulation steps, so 8 x 1, 1 x 8 and two processes see
the same sequences in the same step, in the same order, and every step is full. Nothing is drawn while training, so a
resumed run sees what an uninterrupted one would have seen. A sampler (``train.order``) may say otherwise which sequence
stands where.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from torch.utils.data import Dataset

from distill_core.engine.data import collate
from distill_core.errors import TrainingError

if TYPE_CHECKING:
    from distill_core.engine.data import TokenSequence
    from distill_core.interfaces import Sampler


class MicroBatches(Dataset[dict[str, Any]]):
    """All micro-batches of this process in order: item i is number ``i % accumulation`` of step ``i // accumulation``.

    Args:
        data: the token sequences.
        batch_sequences: sequences of a micro-batch.
        accumulation_steps: micro-batches of a step in this process.
        total_steps: optimizer steps of the run.
        seed: seed of the permutations.
        rank, world_size: this process among all.
        pad_id: id written to padding.
        sampler: says which sequence stands where; None: one permutation after another.

    Raises:
        TrainingError: there are no sequences.
    """

    def __init__(
        self,
        data: Sequence[TokenSequence],
        *,
        batch_sequences: int,
        accumulation_steps: int,
        total_steps: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        pad_id: int = 0,
        sampler: Sampler | None = None,
    ) -> None:
        if len(data) == 0:
            raise TrainingError("there are no training sequences; look at data.train in the run file")
        self.data = data
        self.batch_sequences = batch_sequences
        self.accumulation_steps = accumulation_steps
        self.total_steps = total_steps
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.pad_id = pad_id
        self.sampler = sampler
        self._epoch = -1
        self._order: npt.NDArray[np.int64] = np.empty(0, dtype=np.int64)

    def __len__(self) -> int:
        return self.total_steps * self.accumulation_steps

    def __getitem__(self, index: int) -> dict[str, Any]:
        step, micro = divmod(index, self.accumulation_steps)
        first = (self.rank * self.accumulation_steps + micro) * self.batch_sequences
        chosen = self.of_step(step)[first : first + self.batch_sequences]
        return {"batch": collate([self.data[i] for i in chosen], self.pad_id)}

    @property
    def sequences_per_step(self) -> int:
        """Sequences of a step over all processes and micro-batches."""
        return self.batch_sequences * self.accumulation_steps * self.world_size

    def of_step(self, step: int) -> Sequence[int]:
        """Indices in the data of the sequences of a step, over all processes and micro-batches.

        Raises:
            TrainingError: the sampler gave too few, or indices outside the data.
        """
        positions = range(step * self.sequences_per_step, (step + 1) * self.sequences_per_step)
        if self.sampler is None:
            return [self.sequence_at(position) for position in positions]
        indices = [int(index) for index in self.sampler.indices(step, positions)]
        if len(indices) != len(positions) or not all(0 <= index < len(self.data) for index in indices):
            raise TrainingError(
                f"the sampler {type(self.sampler).__name__} gave {len(indices)} indices from "
                f"{min(indices, default=0)} to {max(indices, default=0)} for step {step}; expected {len(positions)} "
                f"within 0 to {len(self.data) - 1}"
            )
        return indices

    def epoch_of(self, step: int) -> int:
        """How often the whole data had been gone through when a step began."""
        return step * self.sequences_per_step // len(self.data)

    def sequence_at(self, position: int) -> int:
        """Index in the data of the sequence at a position of the endless stream."""
        epoch, offset = divmod(position, len(self.data))
        if epoch != self._epoch:
            self._order = np.random.default_rng([self.seed, epoch]).permutation(len(self.data))
            self._epoch = epoch
        return int(self._order[offset])


def steps_of(*, max_steps: int | None, epochs: float, sequences: int, sequences_per_step: int) -> int:
    """Optimizer steps of a run: ``max_steps``, or as many as cover the data ``epochs`` times.

    >>> steps_of(max_steps=None, epochs=1.0, sequences=100, sequences_per_step=8)
    13
    """
    return max_steps if max_steps is not None else max(1, math.ceil(epochs * sequences / sequences_per_step))
