"""`TopK`: what a teacher's top-k distribution is made of.

Legend: N rows, K entries kept, T temperatures.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...shapes import IdsNK, LogitsNK, LogProbsNK, RowN, RowNT
from ..support_logits.reference import log_softmax_rows


@dataclass(frozen=True, eq=False)
class TopK:
    """The k largest logits of each row and the logsumexp of the rest, per temperature.

    Args:
        ids_NK: int64, largest logit first, equal ones by lowest id.
        logits_NK: fp32 (fp64 for fp64 inputs), raw logits.
        tail_NT: logsumexp of `z / t` over all other valid entries; -inf where there are none.
        temperatures: the T temperatures that can be asked for.

    >>> import torch
    >>> from distill_core import ops
    >>> logp, tail = ops.topk_logits(torch.tensor([[0.0, 1.0, 0.0]]), 1).log_probs()
    >>> torch.allclose(logp.exp().sum(1) + tail.exp(), torch.ones(1))
    True
    """

    ids_NK: IdsNK
    logits_NK: LogitsNK
    tail_NT: RowNT
    temperatures: tuple[float, ...] = (1.0,)

    def log_probs(self, t: float = 1.0) -> tuple[LogProbsNK, RowN]:
        """Teacher log-probabilities at temperature `t`: [N, K] of the kept entries, [N] of all the rest together.

        Raises `ValueError` for a temperature that was not asked for: the tail cannot be re-tempered.
        """
        columns = [i for i, own in enumerate(self.temperatures) if own == t]
        if not columns:
            raise ValueError(
                f"TopK: temperature {t!r} was not asked for, this holds {self.temperatures}: the tail at another "
                f"temperature cannot be derived; add it to `temperatures` of topk_logits"
            )
        tail_N1: Tensor = self.tail_NT[:, columns[0], None]
        scaled_NK1 = torch.cat([self.logits_NK / t, tail_N1], dim=1)
        logp_NK1 = log_softmax_rows(scaled_NK1)
        return logp_NK1[:, :-1], logp_NK1[:, -1]
