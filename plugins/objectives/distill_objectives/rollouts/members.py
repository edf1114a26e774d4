"""Sequences of a rollout, and the batch made of them.

Legend: B sequences, T positions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from distill_core.store import sequence_key
from distill_core.types import IGNORE, TokenBatch
from distill_objectives.rollouts.writing import NOT_KNOWN

DATA, STUDENT, TEACHER = 0, 1, 2
"""Who wrote a sequence: ``per_sequence["source"]``."""

NUMBERS = ("behaviour_logp", "student_logp", "teacher_logp")
"""Per token: log-probability under the distribution it was drawn from, under the student, under the teacher (the last
two at temperature 1). NaN where nobody computed it."""


@dataclass(frozen=True)
class Prompt:
    """What a response is written to.

    Args:
        ids: its tokens.
        key: content key of them.
        place: index of the sequence among those of the step over all processes; keys its random numbers.
        document: id of the document it was cut from.
        domain: its domain, empty if none.
        weight: weight of the response's tokens in the loss.
    """

    ids: list[int]
    key: bytes
    place: int
    document: str
    domain: str
    weight: float


@dataclass(frozen=True)
class Member:
    """One sequence of the batch to come.

    Args:
        ids: tokens.
        labels: as in :class:`TokenBatch`.
        weights: per token.
        document, domain: as of its prompt.
        source: ``DATA``, ``STUDENT`` or ``TEACHER``.
        numbers: by name, of the last tokens of the sequence.
    """

    ids: Sequence[int]
    labels: Sequence[int]
    weights: Sequence[float]
    document: str
    domain: str
    source: int
    numbers: Mapping[str, Sequence[float]] = field(default_factory=dict)


def prompt_length(batch: TokenBatch, row: int, prefix_tokens: int | None) -> int | None:
    """Tokens of the prompt of a sequence: those before the first that is predicted, else ``prefix_tokens`` of it.

    None where there is neither.
    """
    predicted_T = (batch.labels_BT[row] != IGNORE) & (batch.attention_mask_BT[row] != 0)
    length = int(batch.attention_mask_BT[row].sum())
    first = int(predicted_T.long().argmax()) if bool(predicted_T.any()) else length
    if first:
        return first
    return None if prefix_tokens is None else min(prefix_tokens, length)


def prompt_of(batch: TokenBatch, row: int, length: int, place: int) -> Prompt:
    """The prompt of a sequence of the data."""
    ids = batch.input_ids_BT[row, :length].tolist()
    weight = 1.0
    if batch.weights_BT is not None and length < batch.weights_BT.shape[1]:
        weight = float(batch.weights_BT[row, length])  # of the first token that the data's own answer has there
    return Prompt(
        ids,
        sequence_key(ids),
        place,
        batch.documents[row] if batch.documents else "",
        batch.domains[row] if batch.domains else "",
        weight,
    )


def from_data(batch: TokenBatch, row: int) -> Member:
    """The data's own sequence, as it is."""
    length = int(batch.attention_mask_BT[row].sum())
    weights = [1.0] * length if batch.weights_BT is None else batch.weights_BT[row, :length].tolist()
    return Member(
        batch.input_ids_BT[row, :length].tolist(),
        batch.labels_BT[row, :length].tolist(),
        weights,
        batch.documents[row] if batch.documents else "",
        batch.domains[row] if batch.domains else "",
        DATA,
    )


def written(prompt: Prompt, response: Sequence[int], source: int, numbers: Mapping[str, Sequence[float]]) -> Member:
    """A prompt with its response, the response alone to be predicted."""
    return Member(
        [*prompt.ids, *response],
        [*[IGNORE] * len(prompt.ids), *response],
        [prompt.weight] * (len(prompt.ids) + len(response)),
        prompt.document,
        prompt.domain,
        source,
        numbers,
    )


def to_batch(members: Sequence[Member], pad_id: int = 0) -> TokenBatch:
    """A batch padded on the right, with ``source`` per sequence and :data:`NUMBERS` per token."""
    shape = (len(members), max(len(member.ids) for member in members))
    ids_BT = torch.full(shape, pad_id, dtype=torch.int64)
    labels_BT = torch.full(shape, IGNORE, dtype=torch.int64)
    mask_BT = torch.zeros(shape, dtype=torch.int64)
    weights_BT = torch.ones(shape)
    numbers: dict[str, Tensor] = {name: torch.full(shape, NOT_KNOWN) for name in NUMBERS}
    for row, member in enumerate(members):
        length = len(member.ids)
        ids_BT[row, :length] = torch.tensor(member.ids)
        labels_BT[row, :length] = torch.tensor(member.labels)
        mask_BT[row, :length] = 1
        weights_BT[row, :length] = torch.tensor(member.weights)
        for name, values in member.numbers.items():
            numbers[name][row, length - len(values) : length] = torch.tensor(values)
    return TokenBatch(
        ids_BT,
        mask_BT,
        labels_BT,
        keys=tuple(sequence_key(list(member.ids)) for member in members),
        documents=tuple(member.document for member in members),
        weights_BT=None if bool((weights_BT == 1).all()) else weights_BT,
        domains=tuple(member.domain for member in members),
        per_token=numbers,
        per_sequence={"source": torch.tensor([float(member.source) for member in members])},
    )
