"""A teacher's sparse distribution: how it is made sparse, and what an objective reads of it.

Legend: N rows (unmasked predictions), K support size, M temperatures.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor


@dataclass(frozen=True)
class SparseSpec:
    """How a distribution is made sparse at capture.

    Args:
        method: ``topk`` (exact: logits and tails), ``threshold`` or ``multinomial`` (sampled weights).
        k: support size (``multinomial``: draws).
        temperatures: at which tails are kept (``topk``); exactly one for sampled methods.
        seed: seed of the sample, combined with a hash of sequence and position.
        draws: independent samples stored per row (sampled methods).
        ids_NK: int64 [N, K] token ids, -1 pads: the exact target on these instead of the ``k`` likeliest (``topk``),
            for several teachers on the union of their supports. A stored teacher returns what it holds.
    """

    method: Literal["topk", "threshold", "multinomial"]
    k: int
    temperatures: tuple[float, ...] = (1.0,)
    seed: int = 0
    draws: int = 1
    ids_NK: Tensor | None = field(default=None, compare=False)


@dataclass(frozen=True)
class RowTarget:
    """A teacher's sparse distribution at N rows.

    ``exact``: ``logits_NK`` (any constant may be added to a row) with ``tail_NM`` the logsumexp of the rest at each
    temperature; legal for every divergence. ``sampled``: ``weights_NK`` are unbiased estimates of probabilities drawn
    at ``temperatures[0]``; legal only in losses linear in the teacher.

    Args:
        kind: ``exact`` or ``sampled``.
        ids_NK: int64 token ids, unique in a row, -1 pads.
        temperatures: temperatures that can be asked for.
        logits_NK: float32 (exact). Padding entries are ignored.
        tail_NM: float32, one column per temperature (exact).
        weights_NK: float32, 0 on padding (sampled).
        entropy_N: float32, exact entropy in nat of the full distribution at ``temperatures[0]``, if known (sampled:
            required for the value of a KL).
        threshold_N: float32, threshold sampling's c; entries with weight above it are exact (0: all entries exact).
    """

    kind: Literal["exact", "sampled"]
    ids_NK: Tensor
    temperatures: tuple[float, ...]
    logits_NK: Tensor | None = None
    tail_NM: Tensor | None = None
    weights_NK: Tensor | None = None
    entropy_N: Tensor | None = None
    threshold_N: Tensor | None = None

    def __len__(self) -> int:
        return int(self.ids_NK.shape[0])

    def __getitem__(self, rows: slice | Tensor) -> RowTarget:
        def cut(value: Tensor | None) -> Tensor | None:
            return None if value is None else value[rows]

        return replace(
            self,
            ids_NK=self.ids_NK[rows],
            logits_NK=cut(self.logits_NK),
            tail_NM=cut(self.tail_NM),
            weights_NK=cut(self.weights_NK),
            entropy_N=cut(self.entropy_N),
            threshold_N=cut(self.threshold_N),
        )

    def to(self, device: torch.device | str) -> RowTarget:
        def move(value: Tensor | None) -> Tensor | None:
            return None if value is None else value.to(device)

        return replace(
            self,
            ids_NK=self.ids_NK.to(device),
            logits_NK=move(self.logits_NK),
            tail_NM=move(self.tail_NM),
            weights_NK=move(self.weights_NK),
            entropy_N=move(self.entropy_N),
            threshold_N=move(self.threshold_N),
        )

    def log_probs(self, temperature: float = 1.0) -> Tensor:
        """[N, K+1] teacher log-probabilities on the support and the tail; -inf on padding. ``exact`` only.

        Raises:
            ValueError: the target is sampled, or the temperature was not captured.
        """
        if self.kind != "exact" or self.logits_NK is None or self.tail_NM is None:
            raise ValueError(
                "log_probs was asked of a sampled target; it has weights, not probabilities: use weights_NK in a loss "
                "linear in the teacher, or head() for the exact head + tail view of a threshold sample"
            )
        if temperature not in self.temperatures:
            raise ValueError(
                f"temperature {temperature} was asked for, but this target holds {list(self.temperatures)}: "
                "capture it (capture.temperatures) or use a live teacher"
            )
        scaled_NK = (self.logits_NK / temperature).masked_fill(self.ids_NK < 0, -math.inf)
        tail_N1 = self.tail_NM[:, self.temperatures.index(temperature), None]
        return torch.log_softmax(torch.cat([scaled_NK, tail_N1], dim=1), dim=1)

    def head(self) -> RowTarget:
        """The exact head + tail view of a threshold sample: entries with weight > c, tail = 1 - their sum.

        All weights of a row sum to 1, so the tail is read off as the sum of the others: 1 - sum would lose a tail below
        1e-7 in fp32.

        An exact target is returned as it is.

        Raises:
            ValueError: a multinomial sample, which has no exact part.
        """
        if self.kind == "exact":
            return self
        if self.threshold_N is None or self.weights_NK is None:
            raise ValueError("head() needs a threshold sample; this target was drawn by multinomial sampling")
        exact_NK = (self.ids_NK >= 0) & (self.weights_NK > self.threshold_N[:, None])
        weights_NK = torch.where(exact_NK, self.weights_NK, 0).double()
        tail_N = torch.where(exact_NK, 0, self.weights_NK).double().sum(dim=1)
        return RowTarget(
            kind="exact",
            ids_NK=torch.where(exact_NK, self.ids_NK, -1),
            temperatures=self.temperatures[:1],
            logits_NK=(self.temperatures[0] * weights_NK.log()).float(),
            tail_NM=tail_N.log().float()[:, None],
            entropy_N=self.entropy_N,
        )
