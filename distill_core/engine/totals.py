"""Sums per document and per position over the chunks of an evaluation pass, in double precision.

Legend: n rows of a chunk.
"""

from __future__ import annotations

import math
from collections import defaultdict
from typing import Any

import torch
from torch import Tensor

from distill_core.engine.statistics import estimate
from distill_core.interfaces import EvaluatedRows


class DocumentTotals:
    """Per document: (sum of a per-row value, number of rows)."""

    def __init__(self) -> None:
        self._sums: defaultdict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])

    def add(self, rows: EvaluatedRows, values_n: Tensor, where_n: Tensor | None = None) -> None:
        """Add a value per row of the chunk, of those rows alone where ``where_n`` is True if it is given.

        Raises:
            ValueError: another number of values than rows, or a batch without document ids.
        """
        if values_n.shape != rows.labels_n.shape:
            raise ValueError(f"values_n must be [{rows.labels_n.shape[0]}], one per row, got {tuple(values_n.shape)}")
        documents = documents_of(rows)
        size = len(documents)
        sequence_n = rows.sequence_n
        if where_n is not None:
            sequence_n, values_n = sequence_n[where_n], values_n[where_n]
        totals_B = torch.bincount(sequence_n, weights=values_n.double(), minlength=size).tolist()
        counts_B = torch.bincount(sequence_n, minlength=size).tolist()
        for document, total, count in zip(documents, totals_B, counts_B, strict=True):
            if count:
                self.add_document(document, total, count)

    def add_document(self, document: str, total: float, count: float) -> None:
        """Add to one document directly (denominators other than rows, e.g. bytes)."""
        entry = self._sums[document]
        entry[0] += total
        entry[1] += count

    def sums(self) -> dict[str, tuple[float, float]]:
        """What :class:`~distill_core.interfaces.Measurement` carries as ``document_sums``."""
        return {document: (total, count) for document, (total, count) in self._sums.items()}

    @property
    def count(self) -> int:
        """Rows (or bytes) added."""
        return round(math.fsum(count for _, count in self._sums.values()))

    @property
    def value(self) -> float:
        """Sum / denominator over all documents; NaN where nothing was added."""
        return estimate(self.sums()).value


class SplitTotals:
    """A value over all rows, and apart over those where something holds and where it does not.

    Args:
        names: what the two parts are called in :meth:`detail`.
    """

    def __init__(self, names: tuple[str, str]) -> None:
        self.names = names
        self.all, self.parts = DocumentTotals(), (DocumentTotals(), DocumentTotals())

    def add(self, rows: EvaluatedRows, values_n: Tensor, holds_n: Tensor, where_n: Tensor | None = None) -> None:
        """Add a value per row; ``holds_n`` says which part each belongs to, ``where_n`` which rows count at all."""
        counted_n = torch.ones_like(holds_n) if where_n is None else where_n
        self.all.add(rows, values_n, where_n)
        self.parts[0].add(rows, values_n, holds_n & counted_n)
        self.parts[1].add(rows, values_n, ~holds_n & counted_n)

    def detail(self) -> dict[str, Any]:
        """By part: ``value``, ``standard_error`` and ``n``; None where there is nothing."""
        found = {}
        for name, totals in zip(self.names, self.parts, strict=True):
            one = estimate(totals.sums())
            numbers = {"value": one.value, "standard_error": one.standard_error}
            found[name] = {k: None if math.isnan(v) else v for k, v in numbers.items()} | {"n": totals.count}
        return found


class PositionTotals:
    """The same, apart for half-octave bins of the position: [0,1) [1,2) [2,3) [3,4) [4,6) [6,8) [8,12) ..."""

    def __init__(self) -> None:
        self._bins: defaultdict[int, DocumentTotals] = defaultdict(DocumentTotals)

    def add(self, rows: EvaluatedRows, values_n: Tensor) -> None:
        """Add a value per row of the chunk."""
        documents = documents_of(rows)
        edges = torch.tensor(bin_edges(int(rows.position_n.max()) + 1) if len(rows.position_n) else [0, 1])
        bin_n = torch.bucketize(rows.position_n.cpu(), edges, right=True) - 1
        n_bins, size = len(edges), len(documents)
        cell_n = bin_n * size + rows.sequence_n.cpu()
        totals = torch.bincount(cell_n, weights=values_n.double().cpu(), minlength=n_bins * size).tolist()
        counts = torch.bincount(cell_n, minlength=n_bins * size).tolist()
        for cell, count in enumerate(counts):
            if count:
                self._bins[cell // size].add_document(documents[cell % size], totals[cell], count)

    def series(self) -> list[dict[str, Any]]:
        """Per bin: ``start``, ``stop`` (positions, half open), ``value``, ``standard_error`` (None below two
        documents), ``n``."""
        edges = bin_edges_up_to_bin(max(self._bins, default=-1) + 1)
        result = []
        for index in sorted(self._bins):
            found = estimate(self._bins[index].sums())
            error = None if math.isnan(found.standard_error) else found.standard_error
            result.append(
                {
                    "start": edges[index],
                    "stop": edges[index + 1],
                    "value": found.value,
                    "standard_error": error,
                    "n": self._bins[index].count,
                }
            )
        return result


def documents_of(rows: EvaluatedRows) -> tuple[str, ...]:
    """One document id per sequence of the batch; their absence is an error, since errors are clustered by document."""
    if len(rows.batch.documents) != rows.batch.input_ids_BT.shape[0]:
        raise ValueError(
            f"TokenBatch.documents must name one document per sequence ({rows.batch.input_ids_BT.shape[0]}), got "
            f"{len(rows.batch.documents)}: standard errors are clustered by document"
        )
    return rows.batch.documents


def bin_edges_up_to_bin(index: int) -> list[int]:
    """Edges of the first ``index`` bins, one more than bins.

    >>> bin_edges_up_to_bin(8)
    [0, 1, 2, 3, 4, 6, 8, 12, 16]
    """
    edges = [0, 1, 2, 3]
    while len(edges) <= index:
        power = 2 ** (len(edges) // 2)
        edges.append(power if len(edges) % 2 == 0 else power + power // 2)
    return edges[: index + 1]


def bin_edges(positions: int) -> list[int]:
    """Left edges of the bins that cover positions ``0 .. positions - 1``.

    >>> bin_edges(9)
    [0, 1, 2, 3, 4, 6, 8]
    """
    edges, index = [0], 1
    while (nxt := bin_edges_up_to_bin(index)[-1]) < positions:
        edges.append(nxt)
        index += 1
    return edges
