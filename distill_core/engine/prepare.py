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
from distill_core.engine.records import FORMS, cut_record, encodable_text
from distill_core.errors import DataError
from distill_core.files import atomic_file, write_json
from distill_core.filtering import FilterChain, build_filter
from distill_core.funnel import Funnel, FunnelStep, funnel_sentence
from distill_core.pieces import CutRecord, Piece

if TYPE_CHECKING:
    from distill_core.config import ComponentRef, DataConfig
    from distill_core.engine.progress import Progress
    from distill_core.interfaces import FilterContext, Task
    from distill_core.registry import Registry

ROWS_PER_BATCH = 1024
"""Sequences per Arrow record batch: the unit of memory while writing."""

LIMIT_REACHED = "not needed for limit_sequences"
BEYOND_DOCUMENT = "beyond the document's sequences"


class DataCounts:
    """Counts what came in, what each step dropped and why, and what went out."""

    def __init__(self) -> None:
        self.records_in = 0
        self.funnel = Funnel()
        self.filters: tuple[str, ...] = ()
        self.dropped: Counter[str] = Counter()
        self.sequences = 0
        self.tokens = 0
        self.predicted_tokens = 0
        self.documents: dict[str, int] = {}

    def summary(self) -> dict[str, Any]:
        return {
            "records_in": self.records_in,
            "filters": [
                {"filter": step.name, "dropped": step.dropped, "reasons": dict(sorted(step.reasons.items()))}
                for step in self.funnel.steps
                if step.name in self.filters
            ],
            "funnel": self.funnel.plain(),
            "dropped": dict(sorted(self.dropped.items())),
            "sequences": self.sequences,
            "tokens": self.tokens,
            "predicted_tokens": self.predicted_tokens,
            "documents": self.documents,
        }

    def sentence(self) -> str:
        """Where everything went, for messages."""
        parts = [f"{self.records_in} records read"]
        steps = [step.plain() for step in self.funnel.steps if step.name in self.filters]
        if told := funnel_sentence(steps):
            parts.append(told)
        if self.dropped:
            left_out = ", ".join(f"{reason}: {count}" for reason, count in sorted(self.dropped.items()))
            parts.append(f"left out: {left_out}")
        return ", ".join(parts)


def filtered_records(
    source: Any, filters: Iterable[tuple[str, Any]], counts: DataCounts
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Records that every filter keeps, each with its document id."""
    chain = FilterChain(filters, counts.funnel)
    counts.filters = tuple(step.name for step in counts.funnel.steps)
    return ((str(record["document"]), record) for record in chain.keep(_read(source, counts)))


def _read(source: Any, counts: DataCounts) -> Iterator[Mapping[str, Any]]:
    """The source's records, each with a document id."""
    for record in source.records():
        counts.records_in += 1
        yield record if "document" in record else {**record, "document": f"record-{counts.records_in}"}


def transformed_records(
    records: Iterable[tuple[str, Mapping[str, Any]]], transforms: Iterable[tuple[str, Any]], funnel: Funnel
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Records as the transforms make them, each with its document id (its own, or that of what it was made from)."""
    for name, transform in transforms:
        records = _one_transform(records, transform, funnel.step(name))
    return iter(records)


def _one_transform(
    records: Iterable[tuple[str, Mapping[str, Any]]], transform: Any, step: FunnelStep
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for document, record in records:
        made = list(transform.transform(record))
        if made:
            step.keep(len(made))
        else:
            step.drop("nothing made of it", record)
        for one in made:
            yield str(one.get("document", document)), one


def split_records(
    split: str, data: DataConfig, *, registry: Registry, context: FilterContext, source: Any = None
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(document, record) of a split, filtered and transformed as :func:`prepare_data` does, before tokenising.

    Documents are those of the sequences made of the records; fields that a sequence does not keep are still there.
    """
    return _records(split, data, DataCounts(), registry=registry, context=context, source=source)


def _records(
    split: str, data: DataConfig, counts: DataCounts, *, registry: Registry, context: FilterContext, source: Any
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    own_source, filters = build_split(split, data, registry, context)
    transforms = [(ref.use, registry.build("transform", ref)) for ref in getattr(data, split).transforms]
    kept = filtered_records(own_source if source is None else source, filters, counts)
    return transformed_records(kept, transforms, counts.funnel)


def build_split(
    split: str, data: DataConfig, registry: Registry, context: FilterContext
) -> tuple[Any, list[tuple[str, Any]]]:
    """The source and the filters of a split, each filter with its name."""
    config = getattr(data, split)
    filters = [(ref.use, build_filter(ref, context)) for ref in config.filters]
    return registry.build("source", config.source), filters


def _bare_context(registry: Registry, tokenizer: Any, directory: Path, progress: Progress) -> FilterContext:
    """What filters are built with where there is no run: no teacher."""
    from distill_core.interfaces import FilterContext

    def no_teacher(name: str | None) -> Any:
        raise DataError("a filter asks a teacher, but there is none here: run it from a run file with a `teacher:`")

    return FilterContext(
        seed=0,
        build=registry.build,
        teacher=no_teacher,
        tokenizer=lambda: tokenizer,
        say=progress.say,
        directory=directory / "filters",
    )


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
    filter_context: FilterContext | None = None,
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
        filter_context: given to filters that have ``build``; default: one without teachers.

    Raises:
        DataError: a record that cannot be used, or no sequence left.
    """
    directory, counts = Path(directory), DataCounts()
    context = filter_context or _bare_context(registry, tokenizer, directory, progress)
    records = _records(split, data, counts, registry=registry, context=context, source=source)
    limits = getattr(data, split).limit_sequences, getattr(data, split).document_sequences

    def nothing_left() -> str:
        ref: ComponentRef = getattr(data, split).source
        return (
            f"data.{split}: no sequence left from the source {ref.use} ({counts.sentence()}): "
            f"check its paths and filters; a record needs {FORMS if task is None else 'what the task reads'}"
        )

    cut_one = _cutter(tokenizer, data, task)
    write_sequences(
        split, records, counts, cut_one, directory, progress=progress, limits=limits, nothing_left=nothing_left
    )
    progress.say(f"data:{split}: {counts.sequences} sequences, {counts.tokens} tokens ({counts.sentence()})")
    return TokenDataset.open(directory)


def write_sequences(
    split: str,
    records: Iterator[tuple[str, Mapping[str, Any]]],
    counts: DataCounts,
    cut_one: Cut,
    directory: Path,
    *,
    progress: Progress,
    limits: tuple[int | None, int | None] = (None, None),
    nothing_left: Callable[[], str],
) -> None:
    """Write ``tokens.arrow`` and ``data.json``, whole or not at all.

    Args:
        split: name of the split, for messages and the summary.
        records: (document, record), already filtered.
        counts: of what goes out; what came in is counted by the records' reader.
        cut_one: makes the sequences of a record, given it and its document.
        directory: where the files go; made if it is not there.
        progress: shows tokens.
        limits: most sequences, and most sequences of a document; None: no limit.
        nothing_left: says why, where no sequence is left.

    Raises:
        DataError: a record that cannot be used, or no sequence left.
    """
    directory.mkdir(parents=True, exist_ok=True)
    rows = _rows(records, counts, counts.funnel.step("sequences"), cut_one, *limits)
    with progress.task(f"data:{split}", None, unit="tok") as shown, atomic_file(directory / TOKENS_FILE) as file:
        with pa.ipc.new_file(file, SCHEMA) as writer:
            for batch in _record_batches(rows):
                writer.write_batch(batch)
                shown.advance(len(batch.column(0).flatten()))
        counts.funnel.settle(LIMIT_REACHED)
        if not counts.sequences:
            raise DataError(nothing_left())
    write_json(directory / SUMMARY_FILE, {"split": split, **counts.summary()})


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
    counts: DataCounts,
    step: FunnelStep,
    cut_one: Cut,
    limit: int | None,
    document_limit: int | None,
) -> Iterator[Row]:
    from distill_core.store import sequence_key

    for document, record in records:
        encodable_text(document, "document", ascii(document))
        cut = cut_one(record, document)
        domain = "" if record.get("domain") is None else encodable_text(str(record["domain"]), "domain", document)
        difficulty = difficulty_of(record, document)
        counts.dropped.update(cut.dropped)
        free = None if document_limit is None else document_limit - counts.documents.get(document, 0)
        pieces = cut.pieces if free is None else cut.pieces[: max(0, free)]
        if len(pieces) < len(cut.pieces):
            counts.dropped[BEYOND_DOCUMENT] += len(cut.pieces) - len(pieces)
        if pieces:
            step.keep()
        else:
            step.drop(BEYOND_DOCUMENT if cut.pieces else next(iter(cut.dropped), "nothing to predict"), record)
        for piece in pieces:
            input_ids = np.asarray(piece.input_ids, dtype=np.int32)
            counts.sequences += 1
            counts.tokens += len(input_ids)
            counts.predicted_tokens += _predicted(piece)
            counts.documents[document] = counts.documents.get(document, 0) + 1
            key = sequence_key(input_ids)
            yield input_ids, piece.predict, document, key, piece.weights, domain, difficulty, piece.classes
            if limit is not None and counts.sequences >= limit:
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
