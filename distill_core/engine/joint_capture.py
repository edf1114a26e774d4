"""Joint capture: several teachers at every row, each on the union of all their supports, a store per teacher.

Mixing distributions afterwards needs every teacher's probability of every token of the support. The stores lie beside
each other, ``<capture>/<teacher>``, and each is a store like any other.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from distill_core.config import CaptureConfig
from distill_core.engine.aggregation import joint_targets
from distill_core.engine.capture import (
    CaptureResult,
    batches_of,
    by_sequence,
    pending_sequences,
    row_arrays,
    store_meta,
)
from distill_core.engine.data import TokenDataset, TokenSequence, collate
from distill_core.engine.progress import Progress
from distill_core.errors import DataError, SignalError
from distill_core.store import RowArrays, StoreWriter
from distill_core.types import Needs, SparseSpec

if TYPE_CHECKING:
    from distill_core.interfaces import Teacher


def capture_jointly(
    teachers: Mapping[str, Teacher],
    dataset: TokenDataset | Sequence[TokenSequence],
    config: CaptureConfig,
    directory: Path | str,
    *,
    progress: Progress | None = None,
) -> CaptureResult:
    """Store the exact targets of several teachers on the union of their ``config.k`` likeliest tokens and the label.

    Resumes what is there: the stores are written shard by shard together, and one that is a shard ahead waits.

    Args:
        teachers: by name, which is the name of the store's directory; at least two, of one vocabulary.
        dataset: token sequences, in a fixed order.
        config: ``method: topk``.
        directory: where the stores are or shall be.
        progress: shows tokens per second; default: nothing is shown.

    Raises:
        DataError: no sequences.
        SignalError: fewer than two teachers, another method, or a teacher that cannot answer on given ids.
        StoreError: a directory holds another capture, or another process writes to it.
    """
    started_s = time.monotonic()
    if len(teachers) < 2 or config.method != "topk":
        raise SignalError(
            f"a joint capture needs at least two teachers and method: topk, received {len(teachers)} and "
            f"{config.method}"
        )
    if not len(dataset):
        raise DataError("the data set to capture holds no sequences: look at its filters and min_sequence_tokens")
    progress = Progress(quiet=True) if progress is None else progress
    tokens = rows = 0
    with ExitStack() as stack:
        writers = {}
        for name, teacher in teachers.items():
            k = min(config.k * len(teachers) + 1, teacher.vocabulary().size)  # the union, and the label
            meta = store_meta(teacher, config, seed=0, k=k)
            writers[name] = stack.enter_context(
                StoreWriter(Path(directory) / name, meta, shard_sequences=config.shard_sequences)
            )
        pending = pending_sequences(dataset, list(writers.values()))
        total_tokens = sum(len(dataset[index]) for index in pending)
        if pending:
            with progress.task(f"capture {config.name}", total_tokens, unit="tok") as task:
                for start in range(0, len(pending), config.shard_sequences):
                    shard = [dataset[index] for index in pending[start : start + config.shard_sequences]]
                    rows += _capture_shard(shard, teachers, writers, config)
                    tokens += (shard_tokens := sum(len(sequence) for sequence in shard))
                    task.advance(shard_tokens)
    skipped = len(dataset) - len(pending)
    return CaptureResult(Path(directory), len(pending), skipped, tokens, rows, time.monotonic() - started_s)


def _capture_shard(
    sequences: Sequence[TokenSequence],
    teachers: Mapping[str, Teacher],
    writers: Mapping[str, StoreWriter],
    config: CaptureConfig,
) -> int:
    """Ask all teachers for one shard, then append to every store what it misses; the number of rows."""
    needs = Needs(frozenset({"targets"}), targets=("exact",), temperatures=tuple(config.temperatures))
    spec = SparseSpec("topk", config.k, tuple(config.temperatures))
    answers: dict[int, dict[str, RowArrays]] = {}
    positions = {}
    for indices in batches_of([len(sequence) for sequence in sequences], config.batch_tokens):
        batch = collate([sequences[index] for index in indices])
        targets = joint_targets(teachers, batch, needs, spec)
        arrays = {name: row_arrays(target) for name, target in targets.items()}
        for index, (cut, positions_n) in zip(indices, by_sequence(batch), strict=True):
            answers[index] = {name: array[cut] for name, array in arrays.items()}
            positions[index] = positions_n
    for index, sequence in enumerate(sequences):
        for name, writer in writers.items():
            if not writer.done(sequence.key):
                writer.append(sequence.input_ids, positions[index], [answers[index][name]])
    return sum(len(positions_n) for positions_n in positions.values())
