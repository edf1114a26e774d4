"""Rows of a sparse teacher as numpy arrays: the twin of ``distill_core.types.RowTarget`` without torch.

Legend: N rows, K support size, M temperatures.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.floating[Any]]
IntArray = NDArray[np.integer[Any]]

_EXPECTED = {"ids": 2, "logits": 2, "tail": 2, "weights": 2, "entropy": 1, "threshold": 1, "label_logprob": 1}


@dataclass(frozen=True)
class RowArrays:
    """A teacher's sparse distribution at N positions; fields as in ``RowTarget``, without the shape suffixes.

    Args:
        kind: ``exact`` (``logits`` and ``tail``) or ``sampled`` (``weights``).
        ids: [N, K] integers, token ids unique in a row, -1 pads.
        temperatures: dimensionless; ``tail`` has a column for each (exact), weights were drawn at the only one.
        logits: [N, K] float; any constant may be added to a row. As read from a store:
            ``T0 * log p`` at the first temperature T0, so ``log_softmax([logits / T, tail_T])`` is the row at every
            captured T.
        tail: [N, M] float, logsumexp of ``logits / T`` over the tokens outside the support; -inf: none are possible.
        weights: [N, K] float, sum to 1 in a row, 0 on padding.
        entropy: [N] float, nat, of the full distribution at ``temperatures[0]``; required with weights.
        threshold: [N] float, threshold sampling's c; entries with weight above it are exact probabilities. 0: all are.
            None: a multinomial sample.
        label_logprob: [N] float, nat, log-probability of the label at ``temperatures[0]``.

    Raises:
        ValueError: a field has the wrong number of dimensions or rows.

    >>> rows = RowArrays(kind="exact", ids=np.array([[3, 1]]), temperatures=(1.0,),
    ...                  logits=np.log([[0.7, 0.2]]), tail=np.log([[0.1]]))
    >>> len(rows), rows.k
    (1, 2)
    """

    kind: Literal["exact", "sampled"]
    ids: IntArray
    temperatures: tuple[float, ...]
    logits: FloatArray | None = None
    tail: FloatArray | None = None
    weights: FloatArray | None = None
    entropy: FloatArray | None = None
    threshold: FloatArray | None = None
    label_logprob: FloatArray | None = None

    def __post_init__(self) -> None:
        for name, n_dimensions in _EXPECTED.items():
            value = getattr(self, name)
            if value is None:
                continue
            if value.ndim != n_dimensions or value.shape[0] != self.ids.shape[0]:
                raise ValueError(
                    f"rows.{name} has shape {value.shape}; expected {n_dimensions} dimensions and "
                    f"{self.ids.shape[0]} rows, as rows.ids has"
                )
            if name in ("logits", "weights") and value.shape != self.ids.shape:
                raise ValueError(f"rows.{name} has shape {value.shape}; expected that of rows.ids, {self.ids.shape}")
        if self.tail is not None and self.tail.shape[1] != len(self.temperatures):
            raise ValueError(
                f"rows.tail has {self.tail.shape[1]} columns; expected one per temperature {list(self.temperatures)}"
            )

    def __len__(self) -> int:
        return int(self.ids.shape[0])

    @property
    def k(self) -> int:
        """Width of the support, padding included."""
        return int(self.ids.shape[1])

    def __getitem__(self, rows: slice | IntArray | NDArray[np.bool_]) -> RowArrays:
        changed: dict[str, Any] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, np.ndarray):
                changed[field.name] = value[rows]
        return replace(self, **changed)

    def log_probs(self, temperature: float = 1.0) -> tuple[FloatArray, FloatArray]:
        """[N, K] log-probabilities of the support (-inf on padding) and [N] of the tail, nat, float64. ``exact`` only.

        Raises:
            ValueError: the rows are sampled, or the temperature was not captured.
        """
        if self.logits is None or self.tail is None:
            raise ValueError("log_probs was asked of sampled rows, which have weights: only exact rows have it")
        if temperature not in self.temperatures:
            raise ValueError(f"temperature {temperature} was not captured; these rows have {list(self.temperatures)}")
        scaled_NK = np.where(self.ids >= 0, self.logits.astype(np.float64) / temperature, -np.inf)
        tail_N = self.tail[:, self.temperatures.index(temperature)].astype(np.float64)
        top_N = np.maximum(scaled_NK.max(axis=1, initial=-np.inf), tail_N)
        total_N = top_N + np.log(np.exp(scaled_NK - top_N[:, None]).sum(axis=1) + np.exp(tail_N - top_N))
        return scaled_NK - total_N[:, None], tail_N - total_N
