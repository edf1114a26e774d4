"""Capture: a teacher's sparse distribution at every row of a data set, into a store.

Legend: N rows, K support size, M temperatures.

The same command after an interruption goes on at the first shard that is not whole, and the finished store is byte for
byte that of an uninterrupted run: a batch never crosses a shard, so what a sequence is batched with depends on its
shard alone.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from distill_core.config import CaptureConfig
from distill_core.engine.data import TokenDataset, TokenSequence, collate
from distill_core.engine.progress import Progress, Task
from distill_core.errors import DataError, SignalError, StoreError
from distill_core.store import RowArrays, StoreMeta, StoreReader, StoreWriter
from distill_core.types import Needs, RowTarget, SparseSpec, TokenBatch

if TYPE_CHECKING:
    from distill_core.interfaces import Teacher


@dataclass(frozen=True)
class CaptureResult:
    """What a capture did.

    Args:
        directory: the finished store.
        sequences: sequences captured now.
        skipped_sequences: sequences that were stored already, or occur twice in the data.
        copied_sequences: of those captured now, the ones that an earlier store (``known``) had.
        tokens: tokens of the sequences captured now.
        rows: rows captured now.
        seconds: wall-clock time.
    """

    directory: Path
    sequences: int
    skipped_sequences: int
    tokens: int
    rows: int
    seconds: float
    copied_sequences: int = 0

    @property
    def tokens_per_s(self) -> float:
        return self.tokens / self.seconds if self.seconds > 0 else 0.0


def capture(
    teacher: Teacher,
    dataset: TokenDataset | Sequence[TokenSequence],
    config: CaptureConfig,
    directory: Path | str,
    *,
    seed: int = 0,
    progress: Progress | None = None,
) -> CaptureResult:
    """Store a teacher's targets for every sequence of a data set; resumes what is there.

    Several teachers on one support: :func:`distill_core.engine.joint_capture.capture_jointly`.

    Args:
        teacher: answers ``signals`` with targets of ``config.method``.
        dataset: token sequences, in a fixed order.
        config: method, k, temperatures, draws, tokens per batch, sequences per shard.
        directory: where the store is or shall be.
        seed: of the sample (sampled methods); random numbers depend on it and on a row's content alone.
        progress: shows tokens per second; default: nothing is shown.

    Raises:
        DataError: no sequences.
        SignalError: the teacher cannot give these targets, or gives numbers that cannot be stored.
        StoreError: the directory holds another capture, another process writes to it, or a store of ``config.known``
            is of another form or teacher.
    """
    started_s = time.monotonic()
    if not len(dataset):
        raise DataError("the data set to capture holds no sequences: look at its filters and min_sequence_tokens")
    meta = store_meta(teacher, config, seed=seed)
    spec = SparseSpec(config.method, config.k, meta.temperatures, seed=meta.seed, draws=config.draws)
    progress = Progress(quiet=True) if progress is None else progress
    tokens = rows = 0
    known = Known(config.known, meta)
    with StoreWriter(directory, meta, shard_sequences=config.shard_sequences) as writer:
        pending = pending_sequences(dataset, [writer])
        total_tokens = sum(len(dataset[index]) for index in pending)
        if pending:
            with progress.task(f"capture {config.name}", total_tokens, unit="tok") as task:
                for start in range(0, len(pending), config.shard_sequences):
                    shard = [dataset[index] for index in pending[start : start + config.shard_sequences]]
                    rows += _capture_shard(shard, teacher, spec, meta, config.batch_tokens, writer, task, known)
                    tokens += sum(len(sequence) for sequence in shard)
    skipped = len(dataset) - len(pending)
    seconds = time.monotonic() - started_s
    return CaptureResult(Path(directory), len(pending), skipped, tokens, rows, seconds, known.copied)


class Known:
    """Stores of earlier captures, from which whole sequences are copied byte by byte.

    Args:
        directories: finished stores.
        meta: what the new store says about itself; theirs must be equal.

    Raises:
        StoreError: one is unfinished, or differs (saying how).
    """

    def __init__(self, directories: Sequence[str], meta: StoreMeta) -> None:
        self.copied = 0
        self._readers = [StoreReader(Path(directory).expanduser()) for directory in directories]
        self._places: dict[bytes, tuple[StoreReader, int]] = {}
        for reader in self._readers:
            if differences := meta.differences(reader.meta):
                raise StoreError(
                    f"capture.known: {reader.directory} holds other labels than this capture makes: "
                    f"{'; '.join(differences)}. Leave it out, or capture as it was captured"
                )
            for index in range(len(reader)):
                self._places.setdefault(reader.key(index), (reader, index))

    def __contains__(self, key: bytes) -> bool:
        return key in self._places

    def copy(self, key: bytes, writer: StoreWriter) -> int:
        """Copy one sequence; returns the number of its rows."""
        reader, index = self._places[key]
        encoded = reader.encoded(index)
        self.copied += writer.append_encoded(encoded)
        return int(encoded.n_rows)


def store_meta(teacher: Teacher, config: CaptureConfig, *, seed: int, k: int | None = None) -> StoreMeta:
    """What the store of this capture says about itself; ``k``: entries of a row, default ``config.k``.

    Raises:
        SignalError: a k, temperatures or draws that the method or the vocabulary does not admit.
    """
    vocabulary = teacher.vocabulary()
    try:
        return StoreMeta(
            vocabulary_size=vocabulary.size,
            tokenizer_fingerprint=vocabulary.fingerprint,
            teacher=teacher.identity(),
            method=config.method,
            k=config.k if k is None else k,
            temperatures=tuple(config.temperatures),
            seed=0 if config.method == "topk" else seed,
            draws=config.draws,
            dtype=str(getattr(teacher, "model_dtype", "float32")).removeprefix("torch."),
        )
    except ValueError as error:
        raise SignalError(f"capture {config.name!r} cannot be made: {error}") from error


def pending_sequences(dataset: TokenDataset | Sequence[TokenSequence], writers: Sequence[StoreWriter]) -> list[int]:
    """Sequences that some writer still misses, in order, each once."""
    seen: set[bytes] = set()
    pending = []
    for index in range(len(dataset)):
        key = dataset[index].key
        if key not in seen and not all(writer.done(key) for writer in writers):
            pending.append(index)
        seen.add(key)
    return pending


def batches_of(lengths: Sequence[int], batch_tokens: int) -> Iterator[list[int]]:
    """Indices in batches of at most ``batch_tokens`` tokens, padding included; a longer sequence goes alone.

    Sequences of similar length go together; the order in the store is not touched by it.

    >>> list(batches_of([5, 9, 5, 4], batch_tokens=12))
    [[3, 0], [2], [1]]
    """
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: (lengths[i], i)):
        if batch and lengths[index] * (len(batch) + 1) > batch_tokens:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def _capture_shard(
    sequences: Sequence[TokenSequence],
    teacher: Teacher,
    spec: SparseSpec,
    meta: StoreMeta,
    batch_tokens: int,
    writer: StoreWriter,
    task: Task,
    known: Known,
) -> int:
    """Ask the teacher for what of a shard is not known, then append its sequences in order; the number of rows."""
    answers: dict[int, tuple[NDArray[np.int64], list[RowArrays]]] = {}
    asked = [index for index, sequence in enumerate(sequences) if sequence.key not in known]
    task.advance(sum(len(sequence) for sequence in sequences if sequence.key in known))
    for places in batches_of([len(sequences[index]) for index in asked], batch_tokens):
        indices = [asked[place] for place in places]
        chosen = [sequences[index] for index in indices]
        for index, answer in zip(indices, _ask(chosen, teacher, spec, meta), strict=True):
            answers[index] = answer
        task.advance(sum(len(sequence) for sequence in chosen))
    n_rows = 0
    for index, sequence in enumerate(sequences):
        if index not in answers:
            n_rows += known.copy(sequence.key, writer)
            continue
        positions_n, draws = answers[index]
        try:
            writer.append(sequence.input_ids, positions_n, draws)
        except (ValueError, TypeError) as error:
            raise SignalError(f"the teacher {meta.teacher} gave rows that cannot be stored: {error}") from error
        n_rows += len(positions_n)
    return n_rows


def _ask(
    sequences: Sequence[TokenSequence], teacher: Teacher, spec: SparseSpec, meta: StoreMeta
) -> Iterator[tuple[NDArray[np.int64], list[RowArrays]]]:
    """Per sequence: positions and one answer per draw."""
    batch = collate(sequences)
    needs = Needs(frozenset({"targets"}), targets=(meta.kind,), temperatures=spec.temperatures)
    signals = teacher.signals(batch, needs, spec)
    targets = [signals.target] if spec.draws == 1 else list(signals.extra.get("draws", ()))
    if len(targets) != spec.draws or any(target is None for target in targets):
        raise SignalError(
            f"the teacher {meta.teacher} was asked for {spec.draws} target(s) per row and gave "
            f"{sum(target is not None for target in targets)}; several draws come as signals.extra['draws']"
        )
    arrays = [row_arrays(target) for target in targets if target is not None]
    for cut, positions_n in by_sequence(batch):
        yield positions_n, [array[cut] for array in arrays]


def by_sequence(batch: TokenBatch) -> Iterator[tuple[slice, NDArray[np.int64]]]:
    """Per sequence of a batch: where its rows lie among all rows, and their positions."""
    rows = batch.rows()
    position_N = rows.position_N.numpy()
    ends_B = np.searchsorted(rows.sequence_N.numpy(), np.arange(len(batch.keys) + 1))
    for index in range(len(batch.keys)):
        cut = slice(int(ends_B[index]), int(ends_B[index + 1]))
        yield cut, position_N[cut]


def row_arrays(target: RowTarget) -> RowArrays:
    """A target as numpy arrays, for the store."""

    def array(value: Tensor | None) -> NDArray[np.float32] | None:
        return None if value is None else value.detach().cpu().float().numpy()

    return RowArrays(
        kind=target.kind,
        ids=target.ids_NK.cpu().numpy(),
        temperatures=target.temperatures,
        logits=array(target.logits_NK),
        tail=array(target.tail_NM),
        weights=array(target.weights_NK),
        entropy=array(target.entropy_N),
        threshold=array(target.threshold_N),
    )
