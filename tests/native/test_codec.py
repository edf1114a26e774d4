"""The compiled codec and its numpy twin: the same bytes, the same numbers, the same refusals."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distill_core.store import RowArrays, StoreMeta, coding
from distill_core.store.columns import decode_rows, encode_rows
from tests.store.conftest import MAKERS

pytestmark = pytest.mark.native

NAMES = ("fixed", "unary", "rice", "octaves")
SMALL, IDS = st.integers(0, 300), st.one_of(st.integers(0, 60_000), st.integers(0, 2**32 - 1))
ARRAYS = st.one_of(st.lists(SMALL, max_size=90), st.lists(IDS, max_size=40), st.lists(st.just(7), max_size=20))
many = settings(deadline=None, max_examples=300)


@pytest.fixture(scope="module")
def twins() -> tuple[coding.Codec, coding.Codec]:
    """numpy and compiled; the latter must be built where this test runs."""
    return coding.NUMPY, coding.compiled()


def outcome(run: Callable[[], Any]) -> Any:
    """What came back, or that it was refused."""
    try:
        return run()
    except ValueError as error:
        assert str(error)
        return "refused"


def packed(codec: coding.Codec, name: str, values: list[int], width: int) -> Any:
    array = np.array(values, dtype=np.int64)
    pack = getattr(codec, f"pack_{name}")
    return outcome(lambda: pack(array, width) if name == "fixed" else pack(array))


def unpacked(codec: coding.Codec, name: str, blob: bytes, count: int, width: int) -> Any:
    unpack = getattr(codec, f"unpack_{name}")

    def run() -> tuple[list[int], bytes]:
        if name == "fixed":
            return unpack(memoryview(blob), width, count).tolist(), b""
        values, rest = unpack(memoryview(blob), count)
        return values.tolist(), bytes(rest)

    return outcome(run)


@many
@given(name=st.sampled_from(NAMES), values=ARRAYS, width=st.integers(-1, 34), rest=st.binary(max_size=3))
def test_the_same_bytes_and_numbers(twins: Any, name: str, values: list[int], width: int, rest: bytes) -> None:
    if name == "unary":
        values = [value % 300 for value in values]
    blob = packed(twins[0], name, values, width)
    assert packed(twins[1], name, values, width) == blob
    if blob != "refused":
        found = unpacked(twins[0], name, blob + rest, len(values), width)
        assert unpacked(twins[1], name, blob + rest, len(values), width) == found
        if name != "fixed":
            assert found == (values, rest)


@many
@given(
    name=st.sampled_from(NAMES),
    values=ARRAYS,
    width=st.integers(0, 32),
    place=st.integers(0, 10**6),
    flip=st.integers(0, 255),
    cut=st.integers(0, 10**6),
    count=st.integers(-3, 3),
)
def test_damaged_bytes_fare_alike(
    twins: Any, name: str, values: list[int], width: int, place: int, flip: int, cut: int, count: int
) -> None:
    """A byte changed, the end cut off, another count asked for."""
    blob = bytearray(packed(twins[0], name, [value % 300 if name == "unary" else value for value in values], width))
    if blob:
        blob[place % len(blob)] ^= flip
    whole = bytes(blob[: cut % (len(blob) + 1)] if place % 2 else blob)
    asked = max(len(values) + count, 0)
    assert unpacked(twins[1], name, whole, asked, width) == unpacked(twins[0], name, whole, asked, width)


@many
@given(name=st.sampled_from(NAMES), blob=st.binary(max_size=80), count=st.integers(0, 40), width=st.integers(0, 32))
def test_any_bytes_fare_alike(twins: Any, name: str, blob: bytes, count: int, width: int) -> None:
    assert unpacked(twins[1], name, blob, count, width) == unpacked(twins[0], name, blob, count, width)


@many
@given(weights=st.lists(st.integers(0, 40), min_size=1, max_size=124), seed=st.integers(0, 99))
def test_the_same_code_for_any_weights(twins: Any, weights: list[int], seed: int) -> None:
    """Fibonacci-like weights make the longest codes; 24 of them are shortened to twelve bits."""
    classes = np.repeat(np.arange(len(weights)), weights)
    shifts = np.maximum((classes >> 2) - 1, 0)
    values = np.random.default_rng(seed).permutation((classes - (shifts << 2)) << shifts)
    assert twins[0].pack_octaves(values) == twins[1].pack_octaves(values)


def test_the_same_code_where_it_is_shortened(twins: Any) -> None:
    weights = [1, 1]
    while len(weights) < 22:
        weights.append(weights[-1] + weights[-2])
    values = np.repeat(np.arange(8), weights[:8]).tolist() + [
        int(v) for n in range(8, 22) for v in [1 << n] * weights[n]
    ]
    array = np.array(values)
    blob = twins[0].pack_octaves(array)
    assert twins[1].pack_octaves(array) == blob
    assert max(b >> 4 | b & 15 for b in blob[1 : 1 + (blob[0] + 1) // 2]) <= 15
    assert twins[1].unpack_octaves(memoryview(blob), array.size)[0].tolist() == values


@pytest.mark.parametrize("count", [(1 << 18) - 1, 1 << 18, (1 << 18) + 9])
def test_the_same_bytes_beyond_a_block(twins: Any, count: int) -> None:
    values = np.random.default_rng(count).integers(0, 49_152, size=count)
    for name in ("fixed", "rice", "octaves"):
        blob = packed(twins[0], name, values, 17)
        assert packed(twins[1], name, values, 17) == blob
        assert unpacked(twins[1], name, blob, count, 17) == (values.tolist(), b"")


@many
@given(
    method=st.sampled_from(sorted(MAKERS)),
    seed=st.integers(0, 2**32 - 1),
    scale=st.floats(0.01, 40),
    n_rows=st.integers(0, 9),
    k=st.integers(1, 40),
)
def test_the_same_store(method: str, seed: int, scale: float, n_rows: int, k: int) -> None:
    """Whole sequences: columns bit for bit, and rows bit for bit from either's columns."""
    meta = StoreMeta(vocabulary_size=60, tokenizer_fingerprint="f", teacher="t", method=method, k=k)  # type: ignore[arg-type]
    logits = np.random.default_rng(seed).normal(size=(n_rows, 60)) * scale
    if n_rows == 0:
        empty = np.zeros((0, k))
        rows = RowArrays(
            kind=meta.kind,
            ids=empty.astype(np.int64),
            temperatures=(1.0,),
            logits=empty,
            tail=np.zeros((0, 1)),
            weights=empty,
            threshold=np.zeros(0),
            entropy=np.zeros(0),
        )
    else:
        rows = MAKERS[method](logits, k)
    columns, decoded = [], []
    for name in ("numpy", "compiled"):
        with coding.using(name):  # type: ignore[arg-type]
            columns.append(encode_rows([rows], meta))
            views = {key: None if blob is None else memoryview(blob) for key, blob in columns[0].items()}
            decoded.append(decode_rows(views, n_rows, meta, 0))
    assert columns[0] == columns[1]
    for field in ("ids", "logits", "tail", "weights", "threshold", "entropy"):
        a, b = getattr(decoded[0], field), getattr(decoded[1], field)
        assert (a is None and b is None) or a.tobytes() == b.tobytes()


def test_wrong_buffers_are_refused() -> None:
    from distill_core import _codec  # type: ignore[attr-defined]

    good = np.arange(4)
    for wrong in (good.astype(np.int32), good.astype(float), np.arange(8)[::2], good.reshape(2, 2)):
        with pytest.raises(TypeError, match="expected one dimension of contiguous int64"):
            _codec.pack_octaves(wrong)
        with pytest.raises(TypeError, match="expected one dimension of contiguous int64"):
            _codec.unpack_fixed(b"\0" * 99, 8, wrong)
    with pytest.raises(TypeError, match="contiguous bytes"):
        _codec.unpack_fixed(np.arange(99), 8, good)
    read_only = np.arange(4)
    read_only.flags.writeable = False
    with pytest.raises((BufferError, ValueError), match="read-only"):
        _codec.unpack_fixed(b"\0" * 99, 8, read_only)
    assert _codec.pack_octaves(good) == coding.NUMPY.pack_octaves(good)


def test_threads_do_not_disturb_one_another(twins: Any) -> None:
    arrays = [np.random.default_rng(seed).integers(0, 49_152, size=20_000) for seed in range(4)]
    expected = [twins[1].pack_octaves(array) for array in arrays]
    failures: list[int] = []

    def work(number: int) -> None:
        for _ in range(20):
            blob = twins[1].pack_octaves(arrays[number])
            back, _ = twins[1].unpack_octaves(memoryview(blob), arrays[number].size)
            if blob != expected[number] or not np.array_equal(back, arrays[number]):
                failures.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_sanitizers_find_nothing(repository: Path, tmp_path: Path) -> None:
    """Random arrays, damaged blobs and random bytes under the address and undefined-behaviour sanitizers."""
    program = tmp_path / "codec_fuzz"
    codec = repository / "csrc" / "codec"
    build = [
        *("c++", "-std=c++17", "-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"),
        *("-static-libasan", "-static-libubsan", f"-I{codec}", "-o", str(program)),
        *(str(codec / "integers.cpp"), str(codec / "octaves.cpp"), str(Path(__file__).parent / "codec_fuzz.cpp")),
    ]
    built = subprocess.run(build, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    done = subprocess.run([str(program), "4000"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    refused, read = map(int, done.stdout.split())
    assert refused > 1000 and read > 1000, "both outcomes must have been seen often"
