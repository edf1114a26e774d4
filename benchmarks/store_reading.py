"""How fast a store is written and read: the numpy and the compiled codec, interleaved, CPU time.

`python -m benchmarks.store_reading DIRECTORY`, by hand, on a finished store. In each round every sequence is encoded
and decoded by each codec, in memory, and read from the store by its tokens, opened anew and with checksums on.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np

from distill_core.store import StoreReader, coding, store_info
from distill_core.store.columns import decode_rows, encode_rows

CODECS = ("numpy", "compiled")


def add_options(parser: argparse.ArgumentParser) -> None:
    """The store and the number of rounds."""
    parser.add_argument("directory", help="a finished store")
    parser.add_argument("--rounds", type=int, default=7, help="default 7")
    parser.add_argument("--sequences", type=int, default=64, help="of the store, at most; default 64")


def tasks(options: argparse.Namespace) -> dict[str, tuple[Callable[[], object], int]]:
    """What is timed, by name, and the bytes that it writes or reads.

    All ids by octave (a threshold store codes only those with a value so): where the two codecs differ most.
    """
    reader = StoreReader(options.directory)
    chosen = np.random.default_rng(0).permutation(len(reader))[: options.sequences].tolist()
    draws = [[reader.decoded(i, draw=draw)[1] for draw in range(reader.meta.draws)] for i in chosen]
    stored = [reader.encoded(i) for i in chosen]
    views = [{n: None if blob is None else memoryview(blob) for n, blob in one.columns.items()} for one in stored]
    tokens = [reader.tokens(i) for i in chosen]
    ids = [sample.ids[sample.ids >= 0].astype(np.int64) for samples in draws for sample in samples]
    packed = [(memoryview(coding.NUMPY.pack_octaves(values)), values.size) for values in ids]

    def read() -> None:
        opened = StoreReader(options.directory)
        for ids_T in tokens:
            opened.rows(ids_T)

    n_bytes, n_ids_bytes = sum(one.n_bytes for one in stored), sum(len(blob) for blob, _ in packed)
    return {
        "encode rows": (lambda: [encode_rows(samples, reader.meta) for samples in draws], n_bytes),
        "decode rows": (
            lambda: [decode_rows(c, len(d[0]), reader.meta, 0) for c, d in zip(views, draws, strict=True)],
            n_bytes,
        ),
        "read by tokens": (read, n_bytes),
        "all ids by octave, pack": (lambda: [coding.active().pack_octaves(values) for values in ids], n_ids_bytes),
        "all ids by octave, unpack": (lambda: [coding.active().unpack_octaves(b, n) for b, n in packed], n_ids_bytes),
    }


def run(options: argparse.Namespace) -> str:
    """The table: MB of store per CPU second, and the ratio of the medians."""
    found = store_info(options.directory)
    timed = tasks(options)
    seconds: dict[tuple[str, str], list[float]] = {}
    for _ in range(options.rounds + 1):
        for name, (task, _) in timed.items():
            for codec in CODECS:
                with coding.using(codec):  # type: ignore[arg-type]
                    started_s = time.process_time()
                    task()
                    seconds.setdefault((name, codec), []).append(time.process_time() - started_s)
    lines = [
        f"{found.meta.method}, k = {found.meta.k}: {found.bytes_per_row:.2f} B/row, "
        f"{min(options.sequences, found.n_sequences)} sequences, median of {options.rounds} rounds after a first",
        "",
        "| | numpy MB/s | compiled MB/s | compiled / numpy | spread (IQR / median) |",
        "|---|---:|---:|---:|---:|",
    ]
    for name, (_, n_bytes) in timed.items():
        kept = [seconds[name, codec][1:] for codec in CODECS]
        slow_s, fast_s = (statistics.median(values) for values in kept)
        quartiles = [statistics.quantiles(values, n=4) for values in kept]
        spreads = ", ".join(f"{(q[2] - q[0]) / q[1]:.0%}" for q in quartiles)
        rates = f"{n_bytes / slow_s / 1e6:.1f} | {n_bytes / fast_s / 1e6:.1f}"
        lines.append(f"| {name} | {rates} | {slow_s / fast_s:.1f} | {spreads} |")
    return "\n".join(lines)


def main() -> None:
    """`python -m benchmarks.store_reading DIRECTORY`: the same without torch."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_options(parser)
    print(run(parser.parse_args()))


if __name__ == "__main__":
    main()
