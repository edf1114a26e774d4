"""Size of a store of the teacher's answers, from measured bytes per position.

Measured on SmolLM2-135M-Instruct (49,152 tokens), one captured temperature, sequences of 128 tokens, shards of 64
sequences, by `python -m benchmarks store_size`; between the measured k the logarithm of the bytes is interpolated in
log k, beyond them extended along the last piece.
"""

from __future__ import annotations

import math

from distill_core.errors import DistillError
from distill_core.planning.figures import Figure, Formula

MEASURED: dict[str, dict[int, float]] = {
    "topk": {4: 13.6, 8: 22.9, 16: 41.3, 32: 76.9, 64: 146.3, 128: 281.2, 256: 544.3},
    "threshold": {4: 13.1, 8: 19.9, 12: 26.6, 16: 33.3, 32: 59.1, 64: 108.7, 128: 203.5},
    "multinomial": {12: 17.6, 25: 26.2, 50: 39.8, 100: 61.9, 200: 98.0},
}
"""Bytes per stored position by method and k, every file of the store counted."""

MEASURED_VOCABULARY = 49_152
DEFAULT_K = {"topk": (64,), "threshold": (12, 32), "multinomial": (50,)}
"""What is shown when no capture is named."""

FORMULAS = {
    "store": Formula(
        text="positions x bytes(method, k), interpolated between measured k in log k and log bytes",
        source="python -m benchmarks store_size, docs/benchmarks.md",
        domain="SmolLM2-135M-Instruct on English speeches, vocabulary 49,152, one temperature, one draw; flatter "
        "teachers and other tokenizers cost more or less",
    ),
    "dense-store": Formula(
        text="positions x V x 4 B", source="definition", domain="float32 probabilities, no compression"
    ),
}


def bytes_per_position(method: str, k: int) -> float:
    """Expected bytes of one stored position.

    Raises:
        DistillError: an unknown method, or k below 1.

    >>> bytes_per_position("topk", 64), round(bytes_per_position("threshold", 24), 1)
    (146.3, 46.6)
    """
    if method not in MEASURED:
        raise DistillError(f"--method must be one of {', '.join(MEASURED)}, got {method!r}")
    if k < 1:
        raise DistillError(f"--k must be at least 1, got {k}: it is the number of entries stored per position")
    table = MEASURED[method]
    if k in table:
        return table[k]
    known = sorted(table)
    upper = next((index for index, value in enumerate(known) if value > k), len(known) - 1)
    low, high = known[max(upper - 1, 0)], known[max(upper, 1)]
    slope = math.log(table[high] / table[low]) / math.log(high / low)
    return table[low] * math.exp(slope * math.log(k / low))


def store_figure(method: str, k: int, positions: float, vocabulary: int) -> Figure:
    """Size of a store."""
    known = sorted(MEASURED[method]) if method in MEASURED else [k]
    flags = []
    if not known[0] <= k <= known[-1]:
        flags.append(f"k {k} outside the measured {known[0]} to {known[-1]}")
    if not MEASURED_VOCABULARY / 2 <= vocabulary <= MEASURED_VOCABULARY * 2:
        flags.append(f"vocabulary {vocabulary:,} far from the measured {MEASURED_VOCABULARY:,}: ids take other room")
    return Figure(
        key=f"store_{method}_{k}",
        label=f"{method}, k = {k}: {bytes_per_position(method, k):.1f} B a position",
        value=positions * bytes_per_position(method, k),
        unit="B",
        formula="store",
        outside=tuple(flags),
    )


def storage_figures(captures: list[tuple[str, int]], positions: float, vocabulary: int) -> list[Figure]:
    """Stores of the named captures, else of the usual ones, and the whole distribution beside them."""
    chosen = captures or [(method, k) for method, numbers in DEFAULT_K.items() for k in numbers]
    dense = Figure(
        key="store_dense",
        label=f"all {vocabulary:,} probabilities in float32",
        value=positions * vocabulary * 4,
        unit="B",
        formula="dense-store",
    )
    return [store_figure(method, k, positions, vocabulary) for method, k in chosen] + [dense]
