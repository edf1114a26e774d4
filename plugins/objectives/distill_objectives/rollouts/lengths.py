"""How long responses may be: a curriculum that waits for the teacher.

Legend: B sequences, T positions.
"""

from __future__ import annotations

import torch
from torch import Tensor

from distill_core.types import IGNORE, TokenBatch
from distill_objectives.rollouts.options import LengthCurriculum
from distill_objectives.rollouts.processes import summed


class Lengths:
    """The longest response of the present step.

    After each step the teacher's mean entropy on the last ``step_tokens`` tokens of the responses that reached the
    present length opens or closes the gate: at most ``max_entropy`` and the length grows by ``step_tokens``; above, or
    where no response got that far, it stays. Sure of what comes there, the teacher has something to teach there.

    Args:
        options: the curriculum; None: always ``limit_tokens``.
        limit_tokens: where it ends.

    >>> lengths = Lengths(LengthCurriculum(start_tokens=8, step_tokens=8, max_entropy=2.0), 20)
    >>> lengths.gate(entropy=1.9), lengths.tokens, lengths.gate(entropy=2.1), lengths.tokens
    (True, 16, False, 16)
    """

    def __init__(self, options: LengthCurriculum | None, limit_tokens: int) -> None:
        self.options = options
        self.limit_tokens = limit_tokens
        self.tokens = limit_tokens if options is None else options.start_tokens

    def gate(self, entropy: float | None) -> bool:
        """Grow if the mean entropy (nat; None: nothing to judge by) allows it; whether it did."""
        if self.options is None or entropy is None or entropy > self.options.max_entropy:
            return False
        self.tokens = min(self.limit_tokens, self.tokens + self.options.step_tokens)
        return True

    def frontier_entropy(
        self, batches: list[TokenBatch], entropies: list[Tensor], prompts: list[list[int]], device: torch.device
    ) -> float | None:
        """Mean teacher entropy at the frontier over all processes, or None where no response reached it.

        Args:
            batches: of this step, in this process.
            entropies: [B, T] per batch, of the distribution each token came from.
            prompts: prompt lengths per batch; a negative one leaves its sequence out.
            device: for the sum over processes.
        """
        assert self.options is not None
        total, count = 0.0, 0
        for batch, entropy_BT, lengths in zip(batches, entropies, prompts, strict=True):
            for row, start in enumerate(lengths):
                stop = start + self.tokens
                if start < 0 or stop > int(batch.attention_mask_BT[row].sum()):
                    continue
                first = max(start, stop - self.options.step_tokens)
                values = entropy_BT[row, first:stop][batch.labels_BT[row, first:stop] != IGNORE]
                total, count = total + float(values.double().sum()), count + len(values)
        total, count_all = summed([total, float(count)], device)
        return total / count_all if count_all else None
