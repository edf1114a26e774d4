"""What was appended is what is read: by content, by prefix, in any process; anything else is refused."""

from __future__ import annotations

import gc
import hashlib
import multiprocessing
import pickle
import struct
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from distill_core.errors import StoreError
from distill_core.store import RowArrays, StoreMeta, StoreReader, StoreWriter, sequence_key

Fill = Callable[..., tuple[Path, list[np.ndarray]]]


def same(a: RowArrays, b: RowArrays) -> bool:
    names = ("ids", "logits", "tail", "weights", "entropy", "threshold", "label_logprob")
    pairs = [(getattr(a, name), getattr(b, name)) for name in names]
    return all((x is None) == (y is None) and (x is None or np.array_equal(x, y)) for x, y in pairs)


def test_key_is_the_documented_hash() -> None:
    ids = [5, 70000, 2**32 - 1]
    expected = hashlib.blake2b(b"packed\0" + struct.pack("<3I", *ids), digest_size=16).digest()
    assert sequence_key(ids, layout="packed") == expected
    assert sequence_key(ids) != expected and sequence_key(ids[:2]) != sequence_key(ids)
    assert sequence_key(np.array([1, 2], dtype=np.int32)) == sequence_key(np.array([1, 2], dtype=np.int64)[::1])
    assert sequence_key(np.array([1, 9, 2, 9])[::2]) == sequence_key([1, 2])


@pytest.mark.parametrize(
    ("ids", "error", "match"),
    [
        ([1.5], TypeError, "integers"),
        ([-100, 3], ValueError, "-100 to 3"),
        ([[1]], ValueError, "shape"),
        ([2**32], ValueError, "2\\^32"),
    ],
)
def test_key_refuses_what_is_no_sequence(ids: list, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        sequence_key(ids)


@pytest.mark.parametrize("method", ["topk", "threshold", "multinomial"])
def test_a_prefix_gets_the_same_bits(filled_store: Fill, method: str) -> None:
    directory, sequences = filled_store(method=method, vocabulary_size=3000)
    reader = StoreReader(directory)
    for ids in sequences:
        whole = reader.rows(ids)
        assert len(whole) == len(ids) - 1
        for length in (1, 2, 3, 7, 8, len(ids) - 1):
            part = reader.rows(ids[:length])
            expected = whole[: min(length, len(ids) - 1)]
            assert same(part, expected) and len(part) == len(expected)
        assert same(reader.rows(ids, [1, 4]), whole[np.array([1, 4])])
        assert reader.positions(ids[:5]).tolist() == [0, 1, 2, 3, 4]


def test_a_prefix_shared_by_two_is_served_by_the_first(
    tmp_path: Path, meta_for: Callable[..., StoreMeta], make_rows: dict
) -> None:
    generator = np.random.default_rng(5)
    sequences = [[1, 2, 3, 4, 9, 9], [1, 2, 3, 4, 5, 6, 7], [1, 2, 3, 4, 5, 6, 8, 8, 8]]
    with StoreWriter(tmp_path / "s", meta_for()) as writer:
        for ids in sequences:
            logits = generator.normal(size=(len(ids) - 1, 50))
            writer.append(ids, np.arange(len(ids) - 1), make_rows["topk"](logits, 4))
    reader = StoreReader(tmp_path / "s")
    for length, server in ((3, 0), (4, 0), (5, 1), (6, 1)):
        ids = sequences[server][:length]
        assert same(reader.rows(ids), reader.rows(sequences[server])[:length])
    assert same(reader.rows([1, 2, 3, 4, 5, 6, 8]), reader.rows(sequences[2])[:7])


def test_rows_do_not_depend_on_neighbours(
    filled_store: Fill, meta_for: Callable[..., StoreMeta], tmp_path: Path
) -> None:
    directory, sequences = filled_store(vocabulary_size=11)
    reader = StoreReader(directory)
    first = sequences[0]
    rows = reader.rows(first)
    alone = tmp_path / "alone"
    with StoreWriter(alone, reader.meta) as writer:
        writer.append_encoded(reader.encoded(0))
    assert same(StoreReader(alone).rows(first), rows)


def test_another_cut_is_refused(filled_store: Fill) -> None:
    directory, sequences = filled_store()
    reader = StoreReader(directory)
    longer = np.append(sequences[0], 1)
    changed = sequences[0].copy()
    changed[-1] = (changed[-1] + 1) % 50
    for ids in (longer, changed, sequences[0][1:], np.zeros(0, dtype=int)):
        with pytest.raises(StoreError, match="neither stored nor a prefix"):
            reader.rows(ids)


def test_positions_without_rows(tmp_path: Path, meta_for: Callable[..., StoreMeta], make_rows: dict) -> None:
    ids = np.arange(40)
    generator = np.random.default_rng(2)
    for number, positions in enumerate([[5, 6, 7, 20, 39], list(range(0, 40, 2)), [], [39], list(range(40))]):
        logits = generator.normal(size=(len(positions), 50))
        with StoreWriter(tmp_path / str(number), meta_for()) as writer:
            writer.append(ids, positions, make_rows["topk"](logits, 4))
        reader = StoreReader(tmp_path / str(number))
        assert reader.positions(ids).tolist() == positions
        assert len(reader.rows(ids)) == len(positions) and reader.rows(ids).k == 4
        assert reader.positions(ids[:21]).tolist() == [p for p in positions if p < 21]
        missing = [p for p in range(40) if p not in positions]
        if missing:
            with pytest.raises(StoreError, match=f"position {missing[0]} .*no stored row"):
                reader.rows(ids, missing[:1])
    with pytest.raises(ValueError, match="rise strictly"):
        reader.rows(ids, [3, 3])


def test_draws_and_optional_columns(tmp_path: Path, meta_for: Callable[..., StoreMeta], make_rows: dict) -> None:
    meta = meta_for(method="threshold", draws=3, revision="r1")
    logits = np.random.default_rng(3).normal(size=(6, 50))
    draws = [make_rows["threshold"](logits, 4, seed=seed) for seed in range(3)]
    label = np.array([-0.5, -3.0, -np.inf, 0.0, -20.0, -1.0])
    draws[0] = RowArrays(**{**draws[0].__dict__, "label_logprob": label})
    with StoreWriter(tmp_path / "s", meta) as writer:
        writer.append(np.arange(7), np.arange(6), draws, revision="r2")
        writer.append(np.arange(1, 8), np.arange(6), draws)
        with pytest.raises(ValueError, match="2 samples; the store was made for draws = 3"):
            writer.append(np.arange(9), np.arange(6), draws[:2])
    reader = StoreReader(tmp_path / "s")
    for draw in range(3):
        found = reader.rows(np.arange(7), draw=draw)
        expected = [sorted(row[row >= 0].tolist()) for row in draws[draw].ids]
        assert [sorted(row[row >= 0].tolist()) for row in found.ids] == expected
        assert (
            found.label_logprob is not None and np.abs(found.label_logprob[[0, 1, 3]] - label[[0, 1, 3]]).max() < 0.004
        )
        assert np.isneginf(found.label_logprob[2])
    with pytest.raises(ValueError, match="draw is 3"):
        reader.rows(np.arange(7), draw=3)
    assert reader.revision(np.arange(7)) == "r2" and reader.revision(np.arange(1, 8)) == "r1"


def test_order_and_duplicates(filled_store: Fill) -> None:
    directory, sequences = filled_store()
    reader = StoreReader(directory)
    assert [reader.tokens(index).tolist() for index in range(len(reader))] == [ids.tolist() for ids in sequences]
    with StoreWriter(directory, reader.meta, shard_sequences=3) as writer:
        assert writer.completed_sequences == 7
        assert all(writer.done(sequence_key(ids)) for ids in sequences)
        assert not writer.append(sequences[3], np.arange(2), reader.rows(sequences[3], [0, 1]))
    assert len(StoreReader(directory)) == 7


def test_a_finished_store_can_grow(filled_store: Fill) -> None:
    directory, sequences = filled_store()
    before = StoreReader(directory)
    with StoreWriter(directory, before.meta, shard_sequences=3) as writer:
        assert writer.append([1, 2, 3], [0, 1], before.rows(sequences[0], [0, 1]))
    after = StoreReader(directory)
    assert len(after) == 8 and after.tokens(7).tolist() == [1, 2, 3]
    assert same(after.rows([1, 2, 3]), before.rows(sequences[0], [0, 1]))


def _read(reader: StoreReader, ids: np.ndarray, queue: multiprocessing.Queue) -> None:
    queue.put(reader.rows(ids).ids.tolist())


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_reader_in_worker_processes(filled_store: Fill, start: str) -> None:
    directory, sequences = filled_store()
    reader = StoreReader(directory)
    expected = reader.rows(sequences[2]).ids.tolist()  # opens a shard before the fork
    assert pickle.loads(pickle.dumps(reader)).rows(sequences[2]).ids.tolist() == expected
    if start == "spawn":
        code = (
            "import pickle, sys; reader, ids = pickle.load(sys.stdin.buffer); "
            "print(reader.rows(ids).ids.tolist()); print('torch' in sys.modules)"
        )
        payload = pickle.dumps((reader, sequences[2].tolist()))
        answer = subprocess.run([sys.executable, "-c", code], input=payload, capture_output=True, check=True)
        assert answer.stdout.decode().splitlines() == [str(expected), "False"]
        return
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    process = context.Process(target=_read, args=(reader, sequences[2], queue))
    process.start()
    assert queue.get(timeout=30) == expected
    process.join()


def test_reading_a_sequence_takes_no_memory_of_the_stores_size(filled_store: Fill) -> None:
    """Shards are mapped, not loaded: the same sequences cost the same in a store ten times as large."""

    def peak(n: int) -> tuple[int, int]:
        directory, sequences = filled_store(f"of-{n}", n=n, shard_sequences=n)
        gc.collect()
        pool = pa.total_allocated_bytes()
        reader = StoreReader(directory, checksums=False)
        reader.rows(sequences[0])
        tracemalloc.start()
        try:
            for ids in sequences[1:10]:
                reader.rows(ids)
            grown = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        return grown + pa.total_allocated_bytes() - pool, (directory / "shard-00000.arrow").stat().st_size

    (small, small_bytes), (large, large_bytes) = peak(15), peak(150)
    assert large_bytes > 15 * small_bytes
    assert large < small + small_bytes, (small, large)


def test_shards_describe_themselves_and_open_in_datasets(filled_store: Fill, tmp_path: Path) -> None:
    import datasets

    directory, sequences = filled_store(n=3)
    shard = directory / "shard-00000.arrow"
    with pa.memory_map(str(shard)) as source:
        description = pa.ipc.open_file(source).schema.metadata[b"distill_core.store"].decode()
    for words in ('"vocabulary_size":50', '"error_nat":0.0078125', '"method":"topk"', '"schema_version":2'):
        assert words in description
    found = datasets.load_dataset("arrow", data_files=str(shard), cache_dir=str(tmp_path / "cache"), split="train")
    assert found["n_tokens"][:] == [len(ids) for ids in sequences]
    assert found[0]["key"] == sequence_key(sequences[0])


def test_many_batches_in_a_shard(tmp_path: Path, filled_store: Fill, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("distill_core.store.shard._BATCH_BYTES", 150)
    directory, sequences = filled_store(n=5, shard_sequences=5)
    reader = StoreReader(directory)
    with pa.memory_map(str(directory / "shard-00000.arrow")) as source:
        assert pa.ipc.open_file(source).num_record_batches > 2
    assert [reader.tokens(index).tolist() for index in range(5)] == [ids.tolist() for ids in sequences]
