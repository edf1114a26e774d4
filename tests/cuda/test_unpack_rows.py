"""The CUDA unpacking of stored rows on the host: what the store's own codec gives, bit for bit, and never more."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from distill_core.engine.unpack import row_target, unpack, unpack_on
from distill_core.errors import StoreError
from distill_core.ops.unpack_rows.cuda import METHODS
from distill_core.store import RowArrays, StoreMeta, StoreReader, StoreWriter, meta, octaves, topk_codec
from distill_core.store import sampled_codec as sampled
from distill_core.store.columns import drawn_columns, encode_rows
from distill_core.store.packed import DEVICE_COLUMNS, PackedRows, words_and_table
from distill_core.types import RowTarget
from tests.store.conftest import MAKERS, topk_rows

from .conftest import CSRC, ORDERS, Shim

pytestmark = pytest.mark.native
FIELDS = ("ids_NK", "logits_NK", "tail_NM", "weights_NK", "entropy_N", "threshold_N")


def description(method: str, k: int, vocabulary: int = 300, temperatures: tuple[float, ...] = (1.0,)) -> StoreMeta:
    return StoreMeta(vocabulary, "f", "t", method, k, temperatures)  # type: ignore[arg-type]


def packed(rows: RowArrays, of: StoreMeta) -> PackedRows:
    blobs = {name: None if blob is None else memoryview(blob) for name, blob in encode_rows([rows], of).items()}
    return PackedRows(len(rows), drawn_columns(blobs, of, 0), blobs["entropy"], None, Path("shard"))


def made(of: StoreMeta, n: int, seed: int = 0, spread: float = 4.0) -> PackedRows:
    logits = np.random.default_rng(seed).normal(size=(n, of.vocabulary_size)) * spread
    return packed(MAKERS[of.method](logits, of.k, seed=seed, temperatures=of.temperatures), of)


def launched(
    shim: Shim, words: Tensor, table: Tensor, rows: int, of: StoreMeta, with_entropy: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """What the binding does, with the host's memory; outputs start as garbage."""
    n_tail = {"topk": len(of.temperatures), "threshold": 1, "multinomial": 0}[of.method]
    ids, gaps = (torch.full((rows, of.k), 2**62) for _ in range(2))
    values, tail = torch.full((rows, of.k), torch.nan), torch.full((rows, n_tail), torch.nan)
    entropy = torch.full((rows if with_entropy else 0,), torch.nan)
    status, starts = torch.full((len(table), 4), -1, dtype=torch.int32), torch.full((3, rows), 2**62)
    shim.call(
        "distill_unpack_rows", words, len(words), table, len(table), rows, of.k, METHODS.index(of.method),
        of.vocabulary_size, torch.tensor(of.temperatures, dtype=torch.float64), max(n_tail, 1),
        meta.STEP_NAT * min(of.temperatures), ids, values, tail, entropy if with_entropy else 0, gaps, starts, status,
    )  # fmt: skip
    return ids, values, tail, entropy, status


@pytest.fixture(scope="module")
def on_cpu(shim_library: ctypes.CDLL) -> Iterator[Callable[[str], None]]:
    """The raw op on CPU tensors, by the shim; the thread order may be set."""
    order = ["forward"]

    def run(
        words: Tensor, table: Tensor, rows: int, k: int, method: int, vocabulary: int, temperatures: Tensor,
        value_step: float, with_entropy: bool,
    ) -> tuple[Tensor, ...]:  # fmt: skip
        of = description(METHODS[method], k, vocabulary, tuple(temperatures.tolist()))
        assert value_step == meta.STEP_NAT * min(of.temperatures)
        return launched(Shim(shim_library, order[0]), words, table, rows, of, with_entropy)

    library = torch.library.Library("distill_core_cuda", "IMPL", "CPU")
    library.impl("unpack_rows", run)
    yield lambda name: order.__setitem__(0, name)
    library._destroy()


def assert_same(found: RowTarget, want: RowTarget) -> None:
    for name in FIELDS:
        a, b = getattr(found, name), getattr(want, name)
        assert (a is None) == (b is None), name
        assert a is None or (a.dtype == b.dtype and torch.equal(a, b)), name


def host(parts: list[PackedRows], of: StoreMeta) -> RowTarget:
    return row_target([part.decode(of) for part in parts], of)


CPU = torch.device("cpu")
CASES = {
    # Widths at and around the groups of ranks, K = V, one entry, none; more rows than a block has threads.
    "k 0": (description("topk", 0, 7), (3,)),
    "k 1": (description("topk", 1, 7), (5, 1)),
    "k 2": (description("threshold", 2, 9), (4,)),
    "all of the vocabulary": (description("topk", 33, 33, (2.0, 0.7, 1.0)), (5, 0, 2)),
    "two of the vocabulary": (description("threshold", 33, 33), (4, 3)),
    "top-k": (description("topk", 64, 5000), (300, 7)),
    "threshold": (description("threshold", 40, 3000), (270, 1)),
    "one draw": (description("multinomial", 1, 50), (6,)),
    "multinomial": (description("multinomial", 50, 3000), (270, 9)),
}


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("case", CASES)
def test_equals_the_host_codec(on_cpu: Callable[[str], None], case: str, order: str) -> None:
    on_cpu(order)
    of, sizes = CASES[case]
    parts = [made(of, n, seed) for seed, n in enumerate(sizes)]
    assert_same(unpack_on(CPU, parts, of), host(parts, of))


@pytest.mark.parametrize("order", ORDERS)
def test_rows_of_uneven_length(on_cpu: Callable[[str], None], order: str) -> None:
    """Rows with no entry (all mass in the tail), impossible entries, no tail, the largest id there is."""
    on_cpu(order)
    of = description("topk", 70, 2**32, (0.5, 1.0))
    logits = np.random.default_rng(0).normal(size=(90, 400)) * 9
    rows = topk_rows(logits, 70, of.temperatures)
    ids, values, tail = rows.ids.copy(), np.array(rows.logits), np.array(rows.tail)
    generator = np.random.default_rng(1)
    for row in range(80):
        ids[row, generator.integers(0, 71) :] = -1
    ids[80], ids[81, 0] = -1, 2**32 - 1
    values[82, 5:], tail[83], tail[84:, 0] = -np.inf, -np.inf, -np.inf
    part = packed(RowArrays("exact", ids, of.temperatures, logits=values, tail=tail), of)
    found = unpack_on(CPU, [part, part], of)
    assert_same(found, host([part, part], of))
    assert int(found.ids_NK.max()) == 2**32 - 1 and bool((found.ids_NK[80] == -1).all())


@pytest.mark.parametrize("order", ORDERS)
def test_codes_that_keep_out_of_step(on_cpu: Callable[[str], None], order: str) -> None:
    """Codes of equal length never find their beat again from a wrong start: threads must wait for each other."""
    on_cpu(order)
    of = description("topk", 64, 2**21)
    # 64 classes equally often: each has a code of six bits, and a span of 128 bits is no multiple of six.
    classes = np.arange(16, 80)
    shifts = (classes >> 2) - 1
    ids_of_class = (classes - (shifts << 2)) << shifts
    ids = np.stack([np.random.default_rng(n).permutation(ids_of_class) for n in range(400)])
    logits = -np.sort(np.random.default_rng(0).exponential(size=ids.shape).cumsum(axis=1))
    part = packed(RowArrays("exact", ids, (1.0,), logits=logits, tail=np.zeros((400, 1)) - 9), of)
    assert_same(unpack_on(CPU, [part], of), host([part], of))


def test_one_id_over_and_over(on_cpu: Callable[[str], None]) -> None:
    """A lone class has a code of one bit; the other bit is no code."""
    on_cpu("random")
    of = description("topk", 1, 50)
    ids, logits = np.full((300, 1), 5), np.zeros((300, 1))
    part = packed(RowArrays("exact", ids, (1.0,), logits=logits, tail=logits - 1), of)
    assert_same(unpack_on(CPU, [part], of), host([part], of))


@pytest.mark.parametrize("method", METHODS)
def test_damaged_columns(on_cpu: Callable[[str], None], method: str) -> None:
    """Cut, longer, changed, any bytes: refused where the host refuses, else the same rows; so are its neighbours'."""
    on_cpu("forward")
    of = description(method, 6)
    generator = np.random.default_rng(3)
    sound, refused = made(of, 9, 1), 0
    for number in range(200):
        part = made(of, 9, number % 7)
        columns = {**part.columns, "entropy": part.entropy or memoryview(b"")}
        name = str(generator.choice([name for name in columns if name != "entropy" or method != "topk"]))
        columns[name] = memoryview(damage(bytes(columns[name]), number % 4, generator))
        entropy = columns.pop("entropy") if method != "topk" else None
        broken = PackedRows(9, columns, entropy, None, Path("shard"))
        try:
            want = host([sound, broken, sound], of)
        except StoreError:
            refused += 1
            # Counts that are wrong but possible make the columns after them wrong.
            blamed = "" if name == "counts" else f"'{name}'"
            with pytest.raises(StoreError, match=rf"cannot be decoded: its columns \[.*{blamed}"):
                unpack_on(CPU, [sound, broken, sound], of)
        else:
            assert_same(unpack_on(CPU, [sound, broken, sound], of), want)
    assert 50 < refused < 200


def damage(blob: bytes, way: int, generator: np.random.Generator) -> bytes:
    if way == 0:
        return blob[: generator.integers(0, max(len(blob), 1))]
    if way == 1:
        return blob + generator.bytes(int(generator.integers(1, 9)))
    if way == 2 and blob:
        changed = bytearray(blob)
        changed[generator.integers(0, len(blob))] ^= int(generator.integers(1, 256))
        return bytes(changed)
    return generator.bytes(int(generator.integers(0, 60)))


def test_a_table_that_does_not_fit_is_refused(shim_library: ctypes.CDLL) -> None:
    """Words, rows or bytes beyond what is there: nothing is read or written there."""
    of = description("threshold", 6)
    words, table = map(torch.from_numpy, words_and_table([made(of, 9), made(of, 9)]))
    for column, value in [(0, 10), (0, -1), (1, 10), (1, -1), (3, len(words)), (4, -1), (9, 2**40), (12, -1)]:
        wrong = table.clone()
        wrong[1, column] = value
        ids, *_, status = launched(Shim(shim_library, "forward"), words, wrong, 18, of, True)
        assert status.tolist() == [[0, 0, 0, 0], [64, 64, 64, 0]]
        assert bool((ids[:9] < 300).all()) and (column == 0 or bool((ids[9:] == -1).all()))


@pytest.mark.parametrize("method", METHODS)
def test_from_a_store(on_cpu: Callable[[str], None], tmp_path: Path, method: str) -> None:
    """Several draws, chosen positions, a prefix: what the reader's own rows are."""
    on_cpu("forward")
    of = StoreMeta(60, "f", "t", method, 5, draws=1 if method == "topk" else 2)  # type: ignore[arg-type]
    generator = np.random.default_rng(0)
    sequences = [generator.integers(0, 60, size=8 + n) for n in range(3)]
    with StoreWriter(tmp_path / "store", of) as writer:
        for n, ids in enumerate(sequences):
            logits = generator.normal(size=(len(ids) - 1, 60)) * 3
            writer.append(
                ids, np.arange(len(ids) - 1), [MAKERS[method](logits, 5, seed=n + d) for d in range(of.draws)]
            )
    reader = StoreReader(tmp_path / "store")
    requests = [(sequences[0], None), (sequences[1][:5], None), (sequences[2], [0, 4, 5]), (sequences[2], [])]
    for draw in range(of.draws):
        parts = [reader.packed(ids, positions, draw=draw) for ids, positions in requests]
        want = row_target([reader.rows(ids, positions, draw=draw) for ids, positions in requests], of)
        assert_same(unpack_on(CPU, parts, of), want)
        assert_same(unpack(parts, of, "cpu"), want)


def test_on_a_cpu_it_refuses_and_says_why() -> None:
    with pytest.raises(RuntimeError, match=r'impl="cuda" cannot run: the cuda kernel runs on cuda tensors'):
        unpack([], description("topk", 4), "cpu", impl="cuda")


def test_constants_agree() -> None:
    texts = "".join((CSRC / "kernels" / f"{name}.cuh").read_text() for name in ("unpack_rows", "octave_codes"))
    assert "STEP_NAT = 1.0 / 128," in texts and meta.STEP_NAT == 1 / 128
    assert "ENTROPY_STEP_NAT = 1.0 / 1024," in texts and meta.ENTROPY_STEP_NAT == 1 / 1024
    assert f"FLOOR_NAT = {topk_codec.FLOOR_NAT:.0f};" in texts
    assert "ABOVE = 1.0 + 1.0 / (1 << 20);" in texts and sampled.ABOVE == 1 + 2**-20
    assert "IMPOSSIBLE = -(int64_t(1) << 24);" in texts and topk_codec.IMPOSSIBLE == -(1 << 24)
    assert f"MAX_CLASSES = {octaves.MAX_CLASSES};" in texts and f"MAX_CODE_BITS = {octaves.MAX_CODE_BITS};" in texts
    assert f"enum ColumnName {{ {', '.join(DEVICE_COLUMNS).upper()}, N_COLUMNS }};" in texts
    assert "enum Method : int32_t { TOPK = 0, THRESHOLD = 1, MULTINOMIAL = 2 };" in texts
    assert METHODS == ("topk", "threshold", "multinomial") == meta.METHODS
