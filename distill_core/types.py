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
from typing import Any, Literal

import torch
from torch import Tensor

from distill_core.ops import SupportLogits, TopK
from distill_core.plugin import Needs

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
        fields: of the records, by name, those that the split keeps (``keep``): one value per sequence, None where its
            record has none. As JSON gives them; not moved to a device.
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
    fields: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
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
            fields={name: names(values) for name, values in self.fields.items()},
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
            fields={name: values[cut] for name, values in self.fields.items()},
        )


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
