"""Expands a store into a table for pandas: one line per stored position."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from distill_core.errors import DistillError, StoreError
from distill_core.files import atomic_file
from distill_core.store.meta import StoreMeta
from distill_core.store.reader import StoreReader
from distill_core.store.rows import RowArrays


def export_parquet(directory: str | Path, path: str | Path) -> int:
    """Write ``path`` with the columns

    - ``sequence`` (number in the order of the capture), ``key`` (hexadecimal), ``position``, ``token`` (at the
      position), ``next_token`` (null at the last), ``draw`` (sampled stores);
    - ``ids``: list of token ids;
    - exact: ``logprobs`` and ``tail_logprob`` at the first temperature, and for each further temperature T
      ``logprobs_T`` and ``tail_logprob_T``; sampled: ``weights`` and, for threshold sampling, ``threshold``;
    - ``entropy`` and ``label_logprob`` (null where not stored).

    Args:
        directory: the store.
        path: the Parquet file to write (atomically; an existing one is replaced).

    Returns:
        Number of lines.

    Raises:
        StoreError: the store is damaged or unfinished.
        DistillError: ``path`` cannot be written.
    """
    reader = StoreReader(directory)
    path = Path(path)
    if not path.parent.is_dir():
        raise DistillError(f"{path}: the directory {path.parent} does not exist")
    if path.resolve().parent == reader.directory.resolve():
        raise StoreError(f"{path}: lies in the store itself: choose another directory")
    n_lines = 0
    schema = _schema(reader.meta)
    with atomic_file(path) as file, pq.ParquetWriter(file, schema, compression="zstd") as writer:
        for index in range(len(reader)):
            for draw in range(reader.meta.draws):
                table = _table(reader, index, draw, schema)
                writer.write_table(table)
                n_lines += table.num_rows
    return n_lines


def _suffix(temperature: float, meta: StoreMeta) -> str:
    return "" if temperature == meta.temperatures[0] else f"_{temperature:g}"


def _schema(meta: StoreMeta) -> pa.Schema:
    fields = [
        ("sequence", pa.int64()),
        ("key", pa.string()),
        ("position", pa.int64()),
        ("token", pa.int64()),
        ("next_token", pa.int64()),
    ]
    if meta.kind == "sampled":
        fields.append(("draw", pa.int64()))
    fields.append(("ids", pa.list_(pa.int64())))
    if meta.kind == "exact":
        for temperature in meta.temperatures:
            suffix = _suffix(temperature, meta)
            fields += [(f"logprobs{suffix}", pa.list_(pa.float32())), (f"tail_logprob{suffix}", pa.float32())]
    else:
        fields.append(("weights", pa.list_(pa.float32())))
        if meta.method == "threshold":
            fields.append(("threshold", pa.float32()))
    fields += [("entropy", pa.float32()), ("label_logprob", pa.float32())]
    return pa.schema(fields)


def _table(reader: StoreReader, index: int, draw: int, schema: pa.Schema) -> pa.Table:
    positions_N, rows = reader.decoded(index, draw=draw)
    tokens_T = reader.tokens(index).astype(np.int64)
    n_rows = len(rows)
    kept_NK = rows.ids >= 0
    has_next_N = positions_N + 1 < tokens_T.size
    next_N = tokens_T[np.minimum(positions_N + 1, tokens_T.size - 1)]
    columns: dict[str, pa.Array] = {
        "sequence": pa.array(np.full(n_rows, index)),
        "key": pa.array([reader.key(index).hex()] * n_rows, pa.string()),
        "position": pa.array(positions_N),
        "token": pa.array(tokens_T[positions_N]),
        "next_token": pa.array(next_N, mask=~has_next_N),
        "ids": _lists(rows.ids, kept_NK),
        "entropy": pa.nulls(n_rows) if rows.entropy is None else pa.array(rows.entropy),
        "label_logprob": pa.nulls(n_rows) if rows.label_logprob is None else pa.array(rows.label_logprob),
    }
    if reader.meta.kind == "exact":
        columns |= _log_probabilities(rows, kept_NK, reader.meta)
    else:
        columns |= {"draw": pa.array(np.full(n_rows, draw)), "weights": _lists(rows.weights, kept_NK)}
        if rows.threshold is not None:
            columns["threshold"] = pa.array(rows.threshold)
    return pa.table({name: columns[name].cast(schema.field(name).type) for name in schema.names}, schema=schema)


def _log_probabilities(rows: RowArrays, kept_NK: NDArray[Any], meta: StoreMeta) -> dict[str, pa.Array]:
    columns = {}
    for temperature in meta.temperatures:
        logp_NK, tail_N = rows.log_probs(temperature)
        suffix = _suffix(temperature, meta)
        columns[f"logprobs{suffix}"] = _lists(logp_NK, kept_NK)
        columns[f"tail_logprob{suffix}"] = pa.array(tail_N)
    return columns


def _lists(values_NK: NDArray[Any] | None, kept_NK: NDArray[Any]) -> pa.Array:
    assert values_NK is not None
    offsets = np.concatenate([[0], np.cumsum(kept_NK.sum(axis=1))]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values_NK[kept_NK]))
