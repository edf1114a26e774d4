"""The data stage: records from a source, through filters, into tokenised sequences on disk."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from distill_core.engine.data import IGNORE, SCHEMA, SUMMARY_FILE, TOKENS_FILE, TokenDataset, TokenSequence
from distill_core.engine.records import FORMS, cut_record
from distill_core.errors import DataError
from distill_core.files import atomic_file, write_json
from distill_core.pieces import CutRecord, Piece

if TYPE_CHECKING:
    from distill_core.config import ComponentRef, DataConfig
    from distill_core.engine.progress import Progress
    from distill_core.interfaces import Task
    from distill_core.registry import Registry

ROWS_PER_BATCH = 1024
"""Sequences per Arrow record batch: the unit of memory while writing."""


class Funnel:
    """Counts what came in, what each filter dropped and why, and what went out."""

    def __init__(self) -> None:
        self.records_in = 0
        self.filtered: dict[str, Counter[str]] = {}
        self.dropped: Counter[str] = Counter()
        self.sequences = 0
        self.tokens = 0
        self.predicted_tokens = 0
        self.documents: dict[str, int] = {}

    def summary(self) -> dict[str, Any]:
        return {
            "records_in": self.records_in,
            "filters": [
                {"filter": name, "dropped": sum(reasons.values()), "reasons": dict(sorted(reasons.items()))}
                for name, reasons in self.filtered.items()
            ],
            "dropped": dict(sorted(self.dropped.items())),
            "sequences": self.sequences,
            "tokens": self.tokens,
            "predicted_tokens": self.predicted_tokens,
            "documents": self.documents,
        }

    def sentence(self) -> str:
        """Where everything went, for messages."""
        parts = [f"{self.records_in} records read"]
        parts += [f"filter {name} dropped {sum(r.values())} ({_reasons(r)})" for name, r in self.filtered.items() if r]
        if self.dropped:
            parts.append(f"left out: {_reasons(self.dropped)}")
        return ", ".join(parts)


def _reasons(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{reason}: {count}" for reason, count in sorted(counts.items()))


def filtered_records(
    source: Any, filters: Iterable[tuple[str, Any]], funnel: Funnel
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Records that every filter keeps, each with its document id."""
    filters = list(filters)
    for name, _ in filters:
        funnel.filtered[name] = Counter()
    for record in source.records():
        funnel.records_in += 1
        document = str(record.get("document", f"record-{funnel.records_in}"))
        for name, judge in filters:
            reason = judge.verdict(record)
            if reason is not None:
                funnel.filtered[name][reason] += 1
                break
        else:
            yield document, record


def transformed_records(
    records: Iterable[tuple[str, Mapping[str, Any]]], transforms: Iterable[Any]
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Records as the transforms make them, each with its document id (its own, or that of what it was made from)."""
    for transform in transforms:
        records = _one_transform(records, transform)
    return iter(records)


def _one_transform(
    records: Iterable[tuple[str, Mapping[str, Any]]], transform: Any
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for document, record in records:
        for made in transform.transform(record):
            yield str(made.get("document", document)), made


def build_split(split: str, data: DataConfig, registry: Registry) -> tuple[Any, list[tuple[str, Any]]]:
    """The source and the filters of a split, each filter with the name it is counted under."""
    config = getattr(data, split)
    filters: list[tuple[str, Any]] = []
    for ref in config.filters:
        taken = {name for name, _ in filters}
        name = ref.use if ref.use not in taken else f"{ref.use}-{len(filters) + 1}"
        filters.append((name, registry.build("filter", ref)))
    return registry.build("source", config.source), filters


def prepare_data(
    split: str,
    data: DataConfig,
    *,
    tokenizer: Any,
    directory: Path,
    registry: Registry,
    progress: Progress,
    source: Any = None,
    task: Task | None = None,
) -> TokenDataset:
    """Tokenise one split into ``directory``: streaming, deterministic, and whole or not there at all.

    Args:
        split: ``train`` or ``eval``, a field of ``data``.
        data: the section of the run file.
        tokenizer: a Transformers tokenizer; None where a task reads no text.
        directory: where ``tokens.arrow`` and ``data.json`` are written.
        registry: builds the source and the filters.
        progress: shows records and tokens.
        source: an object with ``records()`` to read instead of ``data.<split>.source`` (synthesised data).
        task: makes labelled sequences of the records; None: every token is predicted from those before it.

    Raises:
        DataError: a record that cannot be used, or no sequence left.
    """
    own_source, filters = build_split(split, data, registry)
    funnel = Funnel()
    limits = getattr(data, split).limit_sequences, getattr(data, split).document_sequences
    transforms = [registry.build("transform", ref) for ref in getattr(data, split).transforms]
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    with progress.task(f"data:{split}", None, unit="tok") as shown, atomic_file(directory / TOKENS_FILE) as file:
        kept = filtered_records(own_source if source is None else source, filters, funnel)
        rows = _rows(transformed_records(kept, transforms), funnel, _cutter(tokenizer, data, task), *limits)
        with pa.ipc.new_file(file, SCHEMA) as writer:
            for batch in _record_batches(rows):
                writer.write_batch(batch)
                shown.advance(len(batch.column(0).flatten()))
        if not funnel.sequences:
            ref: ComponentRef = getattr(data, split).source
            raise DataError(
                f"data.{split}: no sequence left from the source {ref.use} ({funnel.sentence()}): "
                f"check its paths and filters; a record needs {FORMS if task is None else 'what the task reads'}"
            )
    write_json(directory / SUMMARY_FILE, {"split": split, **funnel.summary()})
    progress.say(f"data:{split}: {funnel.sequences} sequences, {funnel.tokens} tokens ({funnel.sentence()})")
    return TokenDataset.open(directory)


Row = tuple[
    "np.ndarray[Any, np.dtype[np.int32]]",
    "list[bool] | None",
    str,
    bytes,
    "list[float] | None",
    str,
    "float | None",
    "list[int] | None",
]
Cut = Callable[[Mapping[str, Any], str], CutRecord]


def _cutter(tokenizer: Any, data: DataConfig, task: Task | None) -> Cut:
    """What makes the sequences of a record, given it and its document."""
    if task is None:
        return lambda record, document: cut_record(record, tokenizer=tokenizer, data=data, document=document)
    length = data.sequence_length_tokens
    return lambda record, document: task.pieces(record, tokenizer=tokenizer, length_tokens=length, document=document)


def sequences_of(
    record: Mapping[str, Any], document: str, *, tokenizer: Any, data: DataConfig, task: Task | None
) -> list[TokenSequence]:
    """The sequences that the data stage makes of a record, in memory.

    Raises:
        DataError: a record that cannot be used.
    """
    from distill_core.store import sequence_key

    made = []
    for piece in _cutter(tokenizer, data, task)(record, document).pieces:
        ids = np.asarray(piece.input_ids, dtype=np.int32)
        labels = ids
        if piece.classes is not None:
            labels = np.asarray(piece.classes, dtype=np.int32)
        elif piece.predict is not None:
            labels = np.where(piece.predict, ids, np.int32(IGNORE)).astype(np.int32)
        weights = None if piece.weights is None else np.asarray(piece.weights, dtype=np.float32)
        inputs = getattr(task, "inputs", None)
        made.append(
            TokenSequence(
                ids,
                labels,
                document,
                sequence_key(ids),
                weights,
                next_token=piece.classes is None,
                inputs={} if inputs is None else inputs(ids),
            )
        )
    return made


def _predicted(piece: Piece) -> int:
    if piece.classes is not None:
        return sum(label != IGNORE for label in piece.classes)
    return len(piece.input_ids) - 1 if piece.predict is None else sum(piece.predict[1:])


def _rows(
    records: Iterator[tuple[str, Mapping[str, Any]]],
    funnel: Funnel,
    cut_one: Cut,
    limit: int | None,
    document_limit: int | None,
) -> Iterator[Row]:
    from distill_core.store import sequence_key

    for document, record in records:
        cut = cut_one(record, document)
        domain = "" if record.get("domain") is None else str(record["domain"])
        difficulty = difficulty_of(record, document)
        funnel.dropped.update(cut.dropped)
        for piece in cut.pieces:
            if document_limit is not None and funnel.documents.get(document, 0) >= document_limit:
                funnel.dropped["beyond the document's sequences"] += 1
                continue
            input_ids = np.asarray(piece.input_ids, dtype=np.int32)
            funnel.sequences += 1
            funnel.tokens += len(input_ids)
            funnel.predicted_tokens += _predicted(piece)
            funnel.documents[document] = funnel.documents.get(document, 0) + 1
            key = sequence_key(input_ids)
            yield input_ids, piece.predict, document, key, piece.weights, domain, difficulty, piece.classes
            if limit is not None and funnel.sequences >= limit:
                return


def difficulty_of(record: Mapping[str, Any], document: str) -> float | None:
    """The number ``difficulty`` of a record, for curricula; None where it has none.

    Raises:
        DataError: it is no finite number.
    """
    value = record.get("difficulty")
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise DataError(f"document {document}: difficulty is {value!r}; expected a finite number, or leave it out")
    return float(value)


def _record_batches(rows: Iterator[Row]) -> Iterator[pa.RecordBatch]:
    held: list[Row] = []
    for row in rows:
        held.append(row)
        if len(held) == ROWS_PER_BATCH:
            yield _record_batch(held)
            held = []
    if held:
        yield _record_batch(held)


def _record_batch(rows: list[Row]) -> pa.RecordBatch:
    columns = [pa.array([row[i] for row in rows], type=SCHEMA.field(i).type) for i in range(len(SCHEMA))]
    return pa.record_batch(columns, schema=SCHEMA)
