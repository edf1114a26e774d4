"""How N rows are cut into chunks, so that one chunk's logits stay small and all chunks have about the same size."""

from __future__ import annotations

from collections.abc import Iterator

MAX_ROWS = 256  # the dW product needs about this many rows per pass over the weight to be bound by arithmetic on a CPU
NARROW_ROWS = 64  # under a narrow head there is no arithmetic to speak of: the fewer logits, the nearer their cache
MAX_CHUNK_BYTES = 64 * 2**20


def default_rows(vocabulary: int, bytes_per_logit: int, *, narrow: bool = False) -> int:
    """Rows per chunk: at most 256 (64 under a narrow head), and at most 64 MiB of logits."""
    most = NARROW_ROWS if narrow else MAX_ROWS
    return max(1, min(most, MAX_CHUNK_BYTES // max(1, vocabulary * bytes_per_logit)))


def row_chunks(rows: int, rows_per_chunk: int) -> Iterator[slice]:
    """Slices that cover `range(rows)` in order, none longer than `rows_per_chunk`, lengths differing by at most one."""
    chunks = -(-rows // rows_per_chunk)
    for c in range(chunks):
        yield slice(rows * c // chunks, rows * (c + 1) // chunks)
