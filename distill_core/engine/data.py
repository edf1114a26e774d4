"""Tokenised data on disk: memory-mapped sequences, and the batches made of them.

Legend: B sequences of a batch, T token positions.

A data directory holds ``tokens.arrow`` (an Arrow IPC file: one row per sequence) and ``data.json`` (counts, what the
filters dropped and why, document ids). Reading needs numpy and pyarrow; torch is imported when a batch is made.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from distill_core.errors import DataError

if TYPE_CHECKING:
    from distill_core.types import TokenBatch

IGNORE = -100
"""Label of a token that is not to be predicted; equal to ``distill_core.types.IGNORE``, which needs torch."""

TOKENS_FILE = "tokens.arrow"
SUMMARY_FILE = "data.json"

SCHEMA = pa.schema(
    [
        pa.field("input_ids", pa.list_(pa.int32()), nullable=False),
        pa.field("predict", pa.list_(pa.bool_()), nullable=True),
        pa.field("document", pa.string(), nullable=False),
        pa.field("key", pa.binary(16), nullable=False),
        pa.field("weights", pa.list_(pa.float32()), nullable=True),
        pa.field("domain", pa.string(), nullable=False),
        pa.field("difficulty", pa.float64(), nullable=True),
        pa.field("classes", pa.list_(pa.int32()), nullable=True),
        pa.field("fields", pa.string(), nullable=True),
    ]
)
"""``predict``: per token, whether it is to be predicted (False on a prompt); null: every token is. ``weights``: per
token, its weight in the loss; null: 1. ``domain``: what the record says, empty if nothing. ``difficulty``: what the
record says, null if nothing. ``classes``: of a task, the class at each token, -100 where there is none; null: the
tokens themselves are predicted. ``fields``: what the split keeps of the record (``keep``), as a JSON object; null:
nothing."""

__all__ = ["IGNORE", "SCHEMA", "TokenDataset", "TokenSequence", "collate"]


@dataclass(frozen=True)
class TokenSequence:
    """One sequence; it starts at position 0.

    Args:
        input_ids: int32 [T] token ids.
        labels: int32 [T], unshifted: the token itself (of a task: its class), or :data:`IGNORE` where nothing is to be
            predicted.
        document: id of the document it was cut from.
        key: 16-byte content key (``distill_core.store.sequence_key``).
        weights: float32 [T], each token's weight in the loss; None: 1.
        domain: the record's domain, empty if it names none.
        difficulty: the record's difficulty, None if it names none.
        next_token: False where ``labels`` are classes of a task.
        inputs: what the model reads instead of token ids, by argument name (``pixel_values``: float32 [C, H, W]).
        fields: of its record, by name: those that the split keeps (``keep``) and the record has.
    """

    input_ids: npt.NDArray[np.int32]
    labels: npt.NDArray[np.int32]
    document: str
    key: bytes
    weights: npt.NDArray[np.float32] | None = None
    domain: str = ""
    difficulty: float | None = None
    next_token: bool = True
    inputs: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)
    fields: Mapping[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.input_ids)


Inputs = Callable[[npt.NDArray[np.int32]], Mapping[str, npt.NDArray[Any]]]
"""Makes what a model reads from a sequence's ids (``Task.inputs``)."""


class TokenDataset(Sequence[TokenSequence]):
    """Sequences of a data directory, in a fixed order, memory-mapped.

    Raises:
        DataError: the directory holds no readable ``tokens.arrow``.
    """

    def __init__(self, directory: Path, *, inputs: Inputs | None = None) -> None:
        self.directory = Path(directory)
        self.inputs = inputs
        path = self.directory / TOKENS_FILE
        try:
            self._file = pa.ipc.open_file(pa.memory_map(str(path)))
        except FileNotFoundError as error:
            raise DataError(f"{path} does not exist: the data stage has not finished there; run it again") from error
        except (pa.ArrowInvalid, OSError) as error:
            raise DataError(f"{path} is not a readable Arrow file ({error}): delete it and run again") from error
        if not self._file.schema.equals(SCHEMA):
            raise DataError(f"{path} has the columns {self._file.schema.names}, expected {SCHEMA.names}: run it again")
        self._batches = [self._file.get_batch(i) for i in range(self._file.num_record_batches)]
        self._starts = np.cumsum([0] + [batch.num_rows for batch in self._batches]).tolist()

    @classmethod
    def open(cls, directory: Path | str, *, inputs: Inputs | None = None) -> TokenDataset:
        """The data set that ``distill_core.engine.prepare`` wrote to ``directory``; ``inputs`` of its task, if any."""
        return cls(Path(directory), inputs=inputs)

    def __len__(self) -> int:
        return int(self._starts[-1])

    @property
    def n_tokens(self) -> int:
        """Tokens of all sequences."""
        return sum(int(_lengths(batch).sum()) for batch in self._batches)

    @property
    def longest_tokens(self) -> int:
        """Length of the longest sequence in tokens."""
        return max((int(_lengths(batch).max()) for batch in self._batches if batch.num_rows), default=0)

    @property
    def summary(self) -> dict[str, Any]:
        """What ``data.json`` says: counts, the filter funnel, document ids."""
        return dict(json.loads((self.directory / SUMMARY_FILE).read_text(encoding="utf-8")))

    @overload
    def __getitem__(self, index: int) -> TokenSequence: ...

    @overload
    def __getitem__(self, index: slice) -> list[TokenSequence]: ...

    def __getitem__(self, index: int | slice) -> TokenSequence | list[TokenSequence]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        position = index + len(self) if index < 0 else index
        if not 0 <= position < len(self):
            raise IndexError(f"sequence {index} was asked for, {self.directory} holds {len(self)}")
        shard = bisect_right(self._starts, position) - 1
        return _sequence(self._batches[shard], position - self._starts[shard], self.inputs)

    def __iter__(self) -> Iterator[TokenSequence]:
        for batch in self._batches:
            for row in range(batch.num_rows):
                yield _sequence(batch, row, self.inputs)

    def batches(
        self, batch_sequences: int, indices: Sequence[int] | None = None, *, pad_id: int = 0
    ) -> Iterator[TokenBatch]:
        """Batches of up to ``batch_sequences``, in the order of ``indices`` (default: all, in order)."""
        if batch_sequences < 1:
            raise ValueError(f"batch_sequences must be at least 1, received {batch_sequences}")
        order = range(len(self)) if indices is None else indices
        for start in range(0, len(order), batch_sequences):
            yield collate([self[i] for i in order[start : start + batch_sequences]], pad_id)


def _lengths(batch: pa.RecordBatch) -> npt.NDArray[np.int64]:
    offsets: npt.NDArray[np.int32] = batch.column(0).offsets.to_numpy()
    return np.diff(offsets).astype(np.int64)


def _sequence(batch: pa.RecordBatch, row: int, inputs: Inputs | None) -> TokenSequence:
    input_ids = batch.column(0)[row].values.to_numpy()
    predict, classes = batch.column(1)[row], batch.column(7)[row]
    if classes.is_valid:
        labels = classes.values.to_numpy()
    elif predict.is_valid:
        mask = predict.values.to_numpy(zero_copy_only=False)
        labels = np.where(mask, input_ids, np.int32(IGNORE))
    else:
        labels = input_ids
    weights, fields = batch.column(4)[row], batch.column(8)[row]
    return TokenSequence(
        input_ids,
        labels,
        document=batch.column(2)[row].as_py(),
        key=batch.column(3)[row].as_py(),
        weights=weights.values.to_numpy() if weights.is_valid else None,
        domain=batch.column(5)[row].as_py(),
        difficulty=batch.column(6)[row].as_py(),
        next_token=not classes.is_valid,
        inputs={} if inputs is None else inputs(input_ids),
        fields=json.loads(fields.as_py()) if fields.is_valid else {},
    )


def collate(sequences: Sequence[TokenSequence], pad_id: int = 0) -> TokenBatch:
    """A batch padded on the right to its longest sequence.

    Padding is known by the attention mask alone: a ``pad_id`` that is also a real token (EOS, as is common) masks
    nothing. Labels of padding are :data:`IGNORE`.

    Args:
        sequences: at least one.
        pad_id: id written to padding, default 0; it has no influence on anything.

    Raises:
        ValueError: no sequences.

    >>> import numpy as np
    >>> ids = np.array([5, 7], dtype=np.int32)
    >>> batch = collate([TokenSequence(ids, ids, "a", bytes(16)), TokenSequence(ids[:1], ids[:1], "b", bytes(16))], 7)
    >>> batch.input_ids_BT.tolist(), batch.attention_mask_BT.tolist(), batch.labels_BT.tolist()
    ([[5, 7], [5, 7]], [[1, 1], [1, 0]], [[5, 7], [5, -100]])
    """
    import torch

    from distill_core.types import TokenBatch

    if not sequences:
        raise ValueError("collate needs at least one sequence, received none")
    shape = (len(sequences), max(len(sequence) for sequence in sequences))
    input_ids_BT = np.full(shape, pad_id, dtype=np.int64)
    labels_BT = np.full(shape, IGNORE, dtype=np.int64)
    attention_mask_BT = np.zeros(shape, dtype=np.int64)
    weights_BT = None
    if any(sequence.weights is not None for sequence in sequences):
        weights_BT = np.ones(shape, dtype=np.float32)
    for i, sequence in enumerate(sequences):
        input_ids_BT[i, : len(sequence)] = sequence.input_ids
        labels_BT[i, : len(sequence)] = sequence.labels
        attention_mask_BT[i, : len(sequence)] = 1
        if weights_BT is not None and sequence.weights is not None:
            weights_BT[i, : len(sequence)] = sequence.weights
    return TokenBatch(
        input_ids_BT=torch.from_numpy(input_ids_BT),
        attention_mask_BT=torch.from_numpy(attention_mask_BT),
        labels_BT=torch.from_numpy(labels_BT),
        keys=tuple(sequence.key for sequence in sequences),
        documents=tuple(sequence.document for sequence in sequences),
        weights_BT=None if weights_BT is None else torch.from_numpy(weights_BT),
        domains=tuple(sequence.domain for sequence in sequences),
        next_token=all(sequence.next_token for sequence in sequences),
        inputs={
            name: torch.from_numpy(np.stack([sequence.inputs[name] for sequence in sequences]))
            for name in sequences[0].inputs
        },
        fields={
            name: tuple(sequence.fields.get(name) for sequence in sequences)
            for name in sorted({name for sequence in sequences for name in sequence.fields})
        },
    )
