"""How fast a store is read: `python -m benchmarks.store_reading DIRECTORY`, by hand.

Opens the store anew in each round, reads every sequence in a random order (checksums on, so each shard is also hashed
once) and prints the median over the rounds.
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np

from distill_core.store import StoreReader, store_info


def read_all(directory: str, *, seed: int) -> tuple[float, int]:
    """Seconds and rows of one round, looking every sequence up by its tokens."""
    listing = StoreReader(directory)
    sequences = [listing.tokens(int(index)) for index in np.random.default_rng(seed).permutation(len(listing))]
    started_s = time.perf_counter()
    reader = StoreReader(directory)
    n_rows = sum(len(reader.rows(ids_T)) for ids_T in sequences)
    return time.perf_counter() - started_s, n_rows


def main() -> None:
    parser = argparse.ArgumentParser(description="reading speed of a store of teacher signals")
    parser.add_argument("directory", help="a finished store")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    found = store_info(arguments.directory)
    rounds = [read_all(arguments.directory, seed=seed) for seed in range(arguments.rounds)]
    seconds = statistics.median(elapsed_s for elapsed_s, _ in rounds)
    spread = max(elapsed_s for elapsed_s, _ in rounds) / min(elapsed_s for elapsed_s, _ in rounds)
    print(f"{found.meta.method}, k = {found.meta.k}: {found.n_rows:,} rows, {found.bytes_per_row:.2f} B/row")
    print(f"{rounds[0][1] / seconds:,.0f} rows/s, {found.n_bytes / seconds / 1e6:.1f} MB/s of store, one core")
    print(f"median of {arguments.rounds} rounds, slowest / fastest {spread:.2f}")


if __name__ == "__main__":
    main()
