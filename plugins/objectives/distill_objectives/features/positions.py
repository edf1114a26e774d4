"""Where features are compared, and which of these places are compared with each other.

Legend: B sequences, T token positions, N compared positions, n of one group.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from distill_core.types import TokenBatch


@dataclass(frozen=True)
class Positions:
    """N places of a batch.

    Args:
        sequence_N: int64, index of the sequence in the batch.
        position_N: int64, position in the sequence.
        weights_N: float32, how much each place counts.

    >>> ids = torch.tensor([[5, 6, 7]])
    >>> batch = TokenBatch(ids, torch.tensor([[1, 1, 0]]), torch.tensor([[5, 6, -100]]), keys=(bytes(16),))
    >>> len(Positions.of(batch, "rows")), len(Positions.of(batch, "tokens"))
    (1, 2)
    """

    sequence_N: Tensor
    position_N: Tensor
    weights_N: Tensor

    @classmethod
    def of(cls, batch: TokenBatch, which: Literal["rows", "tokens"]) -> Positions:
        """``rows``: what the batch trains on, with its token weights; ``tokens``: all but padding, each counting 1."""
        if which == "rows":
            rows = batch.rows()
            return cls(rows.sequence_N, rows.position_N, rows.weights_N)
        sequence_N, position_N = torch.nonzero(batch.attention_mask_BT).unbind(1)
        return cls(sequence_N, position_N, torch.ones(len(sequence_N), device=sequence_N.device))

    def __len__(self) -> int:
        return int(self.sequence_N.shape[0])

    def select(self, values_BT: Tensor) -> Tensor:
        """These places of a [B, T, ...] tensor: [N, ...], in float32 (float64 stays)."""
        return wide(values_BT[self.sequence_N, self.position_N])

    def grid(self, shape_BT: torch.Size) -> Tensor:
        """[B, T] weights, 0 elsewhere."""
        weights_BT = self.weights_N.new_zeros(shape_BT)
        weights_BT[self.sequence_N, self.position_N] = self.weights_N
        return weights_BT


def wide(values: Tensor) -> Tensor:
    """In float32; float64 stays."""
    return values if values.dtype == torch.float64 else values.float()


@dataclass(frozen=True)
class Group:
    """Rows that are compared with each other.

    Args:
        index_n: int64, which of the N places take part.
        weights_n: their weights.
        total: weight of the whole group, those left out by ``max_rows`` included; float64, a scalar.
    """

    index_n: Tensor
    weights_n: Tensor
    total: Tensor


def groups(
    at: Positions,
    batch: TokenBatch,
    within: Literal["batch", "sequence"],
    *,
    least: int,
    max_rows: int | None = None,
) -> Iterator[Group]:
    """The groups of a batch that have ``least`` rows; of each, at most ``max_rows`` drawn at random.

    The draw depends on the content of the sequences alone (``batch.keys``): a resumed run repeats it.
    """
    for index_n, key in _members(at, batch, within):
        if len(index_n) < least:
            continue
        chosen_n = index_n if max_rows is None or len(index_n) <= max_rows else _draw(index_n, max_rows, key)
        yield Group(chosen_n, at.weights_N[chosen_n], at.weights_N[index_n].sum(dtype=torch.float64))


def grouped_count(at: Positions, batch: TokenBatch, within: Literal["batch", "sequence"], *, least: int) -> float:
    """Rows in groups that are large enough: the denominator of a sum over groups, each counting as its rows."""
    return float(sum(len(index_n) for index_n, _ in _members(at, batch, within) if len(index_n) >= least))


def _members(at: Positions, batch: TokenBatch, within: str) -> Iterator[tuple[Tensor, bytes]]:
    if within == "batch":
        yield torch.arange(len(at), device=at.sequence_N.device), b"".join(batch.keys)
        return
    for sequence, key in enumerate(batch.keys):
        yield torch.nonzero(at.sequence_N == sequence)[:, 0], key


def _draw(index_n: Tensor, max_rows: int, key: bytes) -> Tensor:
    seed = int.from_bytes(hashlib.blake2b(key, digest_size=7).digest(), "big")
    order_n = torch.randperm(len(index_n), generator=torch.Generator().manual_seed(seed))
    return index_n[order_n[:max_rows].sort().values.to(index_n.device)]
