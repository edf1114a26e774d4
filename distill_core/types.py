"""What flows between the engine, teachers and objectives.

Legend: B sequences of a micro-batch, T token positions, N rows (unmasked predictions), K support size, V vocabulary,
D hidden size, L layers, M temperatures.

A *row* is one prediction: position t of a sequence predicts token t + 1, or, where a run has a task, the class at t.
The next-token shift is applied once, in :meth:`TokenBatch.rows`; teachers and objectives see rows only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from distill_core.ops import SupportLogits, TopK
from distill_core.plugin import Needs
from distill_core.targets import RowTarget, SparseSpec

IGNORE = -100
"""Label of a position that is not trained on (the field's convention)."""

LOG_FLOOR = math.log(1e-30)
"""Log-probability given to outcomes that are impossible on both sides (padding, an empty complement)."""

__all__ = [
    "IGNORE",
    "LOG_FLOOR",
    "LossTerm",
    "Needs",
    "RowIndex",
    "RowInfo",
    "RowTarget",
    "SparseSpec",
    "StudentView",
    "SupportLogits",
    "TeacherSignals",
    "TokenBatch",
    "TopK",
]


@dataclass(frozen=True)
class RowIndex:
    """Where the rows of a batch lie.

    Args:
        sequence_N: int64, index of the sequence in the batch.
        position_N: int64, position t whose hidden state predicts ``label_N``, the token at t + 1 or the class at t.
        labels_N: int64, the token or class to predict.
        weights_N: float32, token weights (1 unless the data says otherwise).
    """

    sequence_N: Tensor
    position_N: Tensor
    labels_N: Tensor
    weights_N: Tensor

    def __len__(self) -> int:
        return int(self.labels_N.shape[0])

    def select(self, values_BT: Tensor) -> Tensor:
        """Rows of a [B, T, ...] tensor, in row order: [N, ...]."""
        return values_BT[self.sequence_N, self.position_N]


@dataclass(frozen=True)
class TokenBatch:
    """A micro-batch of token sequences, padded on the right.

    Args:
        input_ids_BT: int64 token ids.
        attention_mask_BT: int64, 1 on tokens, 0 on padding.
        labels_BT: int64, *unshifted*: the token itself where it is to be predicted, :data:`IGNORE` elsewhere.
        keys: one 16-byte content key per sequence (see ``distill_core.store.sequence_key``).
        documents: one document id per sequence, for clustered statistics and splits.
        weights_BT: float32 token weights, or None for 1.
        domains: one domain per sequence (a record's ``domain``, empty where it has none), or empty.
        per_token: further numbers per token by name, [B, T], e.g. what a rollout knows of its tokens. As with
            labels and weights, the number at a token belongs to the row that predicts it.
        per_sequence: further numbers per sequence by name, [B], e.g. where a rollout took it from.
        next_token: True: ``labels_BT`` are tokens, each predicted one position earlier. False: classes, predicted where
            they stand (a task): one per sequence, or one per token.
        inputs: what the model reads instead of token ids, by argument name, [B, ...] (``pixel_values``); empty: it
            reads ``input_ids`` and ``attention_mask``.
        extra: anything else a data source or a collator adds (images, spans), by name; never moved or cut.
    """

    input_ids_BT: Tensor
    attention_mask_BT: Tensor
    labels_BT: Tensor
    keys: tuple[bytes, ...]
    documents: tuple[str, ...] = ()
    weights_BT: Tensor | None = None
    domains: tuple[str, ...] = ()
    per_token: Mapping[str, Tensor] = field(default_factory=dict)
    per_sequence: Mapping[str, Tensor] = field(default_factory=dict)
    next_token: bool = True
    inputs: Mapping[str, Tensor] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)

    def model_inputs(self) -> dict[str, Tensor]:
        """What the model's forward is called with."""
        return dict(self.inputs) or {"input_ids": self.input_ids_BT, "attention_mask": self.attention_mask_BT}

    @property
    def _shift(self) -> int:
        return 1 if self.next_token else 0

    def rows(self) -> RowIndex:
        """The rows to train on, in (sequence, position) order. The one place where the next-token shift happens."""
        shift = self._shift
        target_BT = self.labels_BT[:, shift:]
        predicted_BT = (target_BT != IGNORE) & (self.attention_mask_BT[:, shift:] != 0)
        sequence_N, position_N = torch.nonzero(predicted_BT).unbind(1)
        labels_N = target_BT[sequence_N, position_N]
        if self.weights_BT is None:
            weights_N = torch.ones(labels_N.shape[0], dtype=torch.float32, device=labels_N.device)
        else:
            weights_N = self.weights_BT[sequence_N, position_N + shift].to(torch.float32)
        return RowIndex(sequence_N, position_N, labels_N, weights_N)

    def row_values(self, rows: RowIndex) -> dict[str, Tensor]:
        """:attr:`per_token` and :attr:`per_sequence` at the batch's rows, [N] each."""
        at_N = rows.position_N + self._shift
        values = {name: value_BT[rows.sequence_N, at_N] for name, value_BT in self.per_token.items()}
        values.update({name: value_B[rows.sequence_N] for name, value_B in self.per_sequence.items()})
        return values

    def to(self, device: torch.device | str) -> TokenBatch:
        return replace(
            self,
            input_ids_BT=self.input_ids_BT.to(device),
            attention_mask_BT=self.attention_mask_BT.to(device),
            labels_BT=self.labels_BT.to(device),
            weights_BT=None if self.weights_BT is None else self.weights_BT.to(device),
            per_token={name: value.to(device) for name, value in self.per_token.items()},
            per_sequence={name: value.to(device) for name, value in self.per_sequence.items()},
            inputs={name: value.to(device) for name, value in self.inputs.items()},
        )

    def on_positions(self, length: int) -> TokenBatch:
        """The same sequences and rows on ``length`` positions, all of them read: where a model makes its own of what it
        is given (the patches of an image, not its bytes), so that masks fit its hidden states."""
        shape = (self.input_ids_BT.shape[0], length)
        labels_BT = self.labels_BT.new_full(shape, IGNORE)
        kept = min(length, self.labels_BT.shape[1])
        labels_BT[:, :kept] = self.labels_BT[:, :kept]
        weights_BT = self.weights_BT
        if weights_BT is not None:
            weights_BT = weights_BT.new_ones(shape)
            weights_BT[:, :kept] = self.weights_BT[:, :kept]  # type: ignore[index]
        return replace(
            self,
            input_ids_BT=self.input_ids_BT.new_zeros(shape),
            attention_mask_BT=self.attention_mask_BT.new_ones(shape),
            labels_BT=labels_BT,
            weights_BT=weights_BT,
            per_token={},
        )

    def take(self, indices: Sequence[int]) -> TokenBatch:
        """The sequences of these indices, in their order, as a batch of their own (keeps the padding width)."""
        chosen = list(indices)

        def names(values: tuple[Any, ...]) -> tuple[Any, ...]:
            return tuple(values[index] for index in chosen) if values else values

        return replace(
            self,
            input_ids_BT=self.input_ids_BT[chosen],
            attention_mask_BT=self.attention_mask_BT[chosen],
            labels_BT=self.labels_BT[chosen],
            keys=names(self.keys),
            documents=names(self.documents),
            weights_BT=None if self.weights_BT is None else self.weights_BT[chosen],
            domains=names(self.domains),
            per_token={name: value[chosen] for name, value in self.per_token.items()},
            per_sequence={name: value[chosen] for name, value in self.per_sequence.items()},
            inputs={name: value[chosen] for name, value in self.inputs.items()},
        )

    def select_sequences(self, start: int, stop: int) -> TokenBatch:
        """The sequences ``start:stop`` as a batch of their own (keeps the padding width)."""
        cut = slice(start, stop)
        return replace(
            self,
            input_ids_BT=self.input_ids_BT[cut],
            attention_mask_BT=self.attention_mask_BT[cut],
            labels_BT=self.labels_BT[cut],
            keys=self.keys[cut],
            documents=self.documents[cut],
            weights_BT=None if self.weights_BT is None else self.weights_BT[cut],
            domains=self.domains[cut],
            per_token={name: value[cut] for name, value in self.per_token.items()},
            per_sequence={name: value[cut] for name, value in self.per_sequence.items()},
            inputs={name: value[cut] for name, value in self.inputs.items()},
        )


@dataclass(frozen=True)
class RowInfo:
    """What else a row objective may read, cut to the rows of the present chunk.

    Args:
        labels_N: int64 tokens to predict.
        sequence_N: int64 sequence index in the micro-batch.
        position_N: int64 position in the sequence.
        step: optimizer step, from 0.
        total_steps: optimizer steps of the whole run.
        extra: numbers per row by name, [N, ...]: the batch's ``per_token`` and ``per_sequence``, and what the
            objective's own ``prepare`` returned.
    """

    labels_N: Tensor
    sequence_N: Tensor
    position_N: Tensor
    step: int = 0
    total_steps: int = 1
    extra: Mapping[str, Tensor] = field(default_factory=dict)

    def __getitem__(self, rows: slice) -> RowInfo:
        return replace(
            self,
            labels_N=self.labels_N[rows],
            sequence_N=self.sequence_N[rows],
            position_N=self.position_N[rows],
            extra={name: value[rows] for name, value in self.extra.items()},
        )


@dataclass(frozen=True)
class TeacherSignals:
    """A teacher's answer for one batch, aligned with ``batch.rows()`` and ``batch.input_ids_BT``.

    Args:
        target: sparse distribution at the batch's rows, if asked for.
        hidden_states: tuple of L + 1 tensors [B, T, D], if asked for.
        attentions: tuple of L tensors [B, H, T, T], if asked for.
        extra: further signals by name: attention projections as in :class:`StudentView`; what an aggregator knows of
            its teachers, one [N] tensor by name; anything else a teacher declares in its ``provides``.
    """

    target: RowTarget | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class StudentView:
    """What a free-form objective sees of the student.

    Args:
        hidden_states: tuple of L + 1 tensors [B, T, D] if any objective needs them; the last entry always.
        attentions: tuple of L tensors [B, H, T, T], if any objective needs them.
        extra: attention projections by signal name (``queries``, ``keys``, ``values``), tuples of L tensors
            [B, T, heads x head size], if any objective needs them.
    """

    hidden_states: tuple[Tensor, ...]
    attentions: tuple[Tensor, ...] | None = None
    extra: Mapping[str, tuple[Tensor, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class LossTerm:
    """A free-form objective's answer: a *sum* over whatever it counts; the engine divides by its count.

    Args:
        total: scalar tensor, the sum.
        metrics: detached scalars to log.
    """

    total: Tensor
    metrics: Mapping[str, float] = field(default_factory=dict)
