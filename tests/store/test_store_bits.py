"""Integer codes give back what they were given, for every width and shape."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill_core.errors import StoreError
from distill_core.store import bits, coding, octaves
from distill_core.store.coding import NUMPY

SMALL = st.lists(st.integers(0, 3000), max_size=70)


@given(width=st.integers(0, 32), data=st.data())
def test_fixed_width_round_trip(width: int, data: st.DataObject) -> None:
    values = np.array(data.draw(st.lists(st.integers(0, (1 << width) - 1), max_size=60)), dtype=np.int64)
    blob = bits.pack_fixed(values, width)
    assert len(blob) == (width * values.size + 7) // 8
    assert bits.unpack_fixed(memoryview(blob), width, values.size).tolist() == values.tolist()


def test_fixed_width_across_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).integers(0, 1 << 13, size=1003)
    whole = bits.pack_fixed(values, 13)
    monkeypatch.setattr(bits, "_BLOCK_VALUES", 64)
    assert bits.pack_fixed(values, 13) == whole


@given(values=st.lists(st.integers(-(1 << 24), 1 << 24), max_size=40), rest=st.binary(max_size=3))
def test_offset_round_trip_leaves_what_follows(values: list[int], rest: bytes) -> None:
    blob = NUMPY.pack_offset(np.array(values, dtype=np.int64)) + rest
    decoded, left = NUMPY.unpack_offset(memoryview(blob), len(values))
    assert decoded.tolist() == values and bytes(left) == rest


@given(values=SMALL, rest=st.binary(max_size=3))
def test_rice_round_trip_leaves_what_follows(values: list[int], rest: bytes) -> None:
    blob = bits.pack_rice(np.array(values, dtype=np.int64)) + rest
    decoded, left = bits.unpack_rice(memoryview(blob), len(values))
    assert decoded.tolist() == values and bytes(left) == rest


def test_rice_of_geometric_gaps_is_near_the_entropy() -> None:
    gaps = np.random.default_rng(1).geometric(1 / 64, size=20_000) - 1
    assert 8 * len(bits.pack_rice(gaps)) / gaps.size < np.log2(64) + 1.7


@given(counts=st.lists(st.integers(0, 5), max_size=12), data=st.data())
def test_segment_cumsum_starts_anew(counts: list[int], data: st.DataObject) -> None:
    parts = [data.draw(st.lists(st.integers(0, 9), min_size=n, max_size=n)) for n in counts]
    flat = np.array([value for part in parts for value in part], dtype=np.int64)
    expected = [int(value) for part in parts for value in np.cumsum(part)]
    assert bits.segment_cumsum(flat, np.array(counts, dtype=np.int64)).tolist() == expected


def test_truncated_code_is_an_error() -> None:
    with pytest.raises(ValueError, match="need 5 bytes"):
        bits.unpack_fixed(memoryview(b"\x01\x02"), 11, 3)
    with pytest.raises(ValueError, match="ends after 1"):
        bits.unpack_unary(memoryview(b"\x01"), 2)


@given(widths=st.lists(st.integers(0, 32), max_size=40), seed=st.integers(0, 2**32 - 1), rest=st.binary(max_size=3))
def test_a_width_for_each_value(widths: list[int], seed: int, rest: bytes) -> None:
    values = np.random.default_rng(seed).integers(0, 1 << 32, size=len(widths))
    masks = (1 << np.array(widths, dtype=np.int64)) - 1
    blob = bits.pack_widths(values, np.array(widths, dtype=np.int64))
    assert len(blob) == (sum(widths) + 7) // 8
    decoded, left = bits.unpack_widths(memoryview(blob + rest), np.array(widths, dtype=np.int64))
    assert decoded.tolist() == (values & masks).tolist() and bytes(left) == rest


def test_a_width_for_each_value_across_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(0)
    values, widths = generator.integers(0, 1 << 32, size=1003), generator.integers(0, 33, size=1003)
    whole = bits.pack_widths(values, widths)
    monkeypatch.setattr(bits, "_BLOCK_VALUES", 32)
    assert bits.pack_widths(values, widths) == whole


IDS = st.one_of(st.integers(0, 9), st.integers(0, 50_000), st.integers(0, 2**32 - 1))


@given(values=st.lists(IDS, max_size=70), rest=st.binary(max_size=3))
def test_octaves_round_trip_leaves_what_follows(values: list[int], rest: bytes) -> None:
    blob = octaves.pack_octaves(np.array(values, dtype=np.int64)) + rest
    decoded, left = octaves.unpack_octaves(memoryview(blob), len(values))
    assert decoded.tolist() == values and bytes(left) == rest


def test_octaves_hold_every_power_of_two_and_its_neighbours() -> None:
    values = np.unique([max(0, min((1 << n) + d, 2**32 - 1)) for n in range(33) for d in (-2, -1, 0, 1, 2)])
    classes = np.frombuffer(octaves.pack_octaves(values), dtype=np.uint8)[0]
    assert classes == octaves.MAX_CLASSES
    assert octaves.unpack_octaves(memoryview(octaves.pack_octaves(values)), values.size)[0].tolist() == values.tolist()
    for wrong in (-1, 2**32):
        with pytest.raises(ValueError, match="expected 0 to 2\\^32 - 1"):
            octaves.pack_octaves(np.array([3, wrong]))


@given(weights=st.lists(st.integers(0, 1 << 40), min_size=1, max_size=124).filter(any))
def test_codes_are_complete_and_no_longer_than_twelve_bits(weights: list[int]) -> None:
    lengths = octaves.code_lengths(weights)
    used = [length for length in lengths if length]
    assert [length > 0 for length in lengths] == [weight > 0 for weight in weights] and max(used) <= 12
    assert len(used) == 1 or sum(2.0**-length for length in used) == 1.0


def test_fibonacci_weights_are_shortened() -> None:
    """Their Huffman code is as long as a code can be."""
    weights = [1, 1]
    while len(weights) < 40:
        weights.append(weights[-1] + weights[-2])
    assert max(octaves.code_lengths(weights)) == 12
    assert max(octaves.code_lengths(weights[:13])) == 12, "twelve bits are enough: the code is Huffman's"
    assert octaves.code_lengths(weights[:13])[::-1] == [*range(1, 13), 12]


def test_octaves_of_zipf_ids_are_near_the_entropy() -> None:
    p = 1 / np.arange(1, 50_001)
    p /= p.sum()
    ids = np.random.default_rng(2).choice(50_000, p=p, size=20_000)
    entropy = -(p * np.log2(p)).sum()
    assert entropy < 8 * len(octaves.pack_octaves(ids)) / ids.size < entropy + 0.15


@given(ranks=st.lists(st.integers(1, 40), max_size=50), data=st.data(), rest=st.binary(max_size=3))
def test_by_rank_round_trip_leaves_what_follows(ranks: list[int], data: st.DataObject, rest: bytes) -> None:
    values = data.draw(st.lists(st.integers(0, 5000), min_size=len(ranks), max_size=len(ranks)))
    given_ranks = np.array(ranks, dtype=np.int64)
    blob = NUMPY.pack_by_rank(np.array(values, dtype=np.int64), given_ranks) + rest
    decoded, left = NUMPY.unpack_by_rank(memoryview(blob), given_ranks)
    assert decoded.tolist() == values and bytes(left) == rest


@pytest.mark.parametrize("values", [[-1], [3, 1 << 40]])
def test_what_has_no_rice_code_is_refused(values: list[int]) -> None:
    with pytest.raises(ValueError, match="expected 0 to 2\\^40 - 1"):
        bits.pack_rice(np.array(values))


BROKEN_OCTAVES = {
    "no table": (b"", "a table of 0 codes"),
    "table cut short": (bytes([9, 0, 0]), "a table of 9 codes in 3 bytes"),
    "too many classes": (bytes([125]) + bytes(90), "a table of 125 codes"),
    "no class used": (bytes([2, 0, 1, 0, 0, 0, 0]), "no prefix code"),
    "too many short codes": (bytes([3, 0x11, 0x01, 1, 0, 0, 0, 0]), "no prefix code"),
    "a gap in the codes": (bytes([2, 0x21, 1, 0, 0, 0, 0]), "no prefix code"),
    "thirteen bits": (bytes([2, 0xD1, 1, 0, 0, 0, 0]), "no prefix code"),
    "codes cut short": (bytes([2, 0x11, 9, 0, 0, 0, 0]), "codes end at byte 15"),
    "too few codes": (bytes([2, 0x11, 0, 0, 0, 0]), "0 bytes of codes do not hold 3 classes"),
    "too many codes": (bytes([2, 0x11, 2, 0, 0, 0, 0, 0]), "2 bytes of codes do not hold 3 classes"),
    "no such code": (bytes([1, 0x01, 1, 0, 0, 0, 7]), "do not hold 3 classes"),
    "lower bits missing": (bytes([9, 0, 0, 0, 0, 1, 1, 0, 0, 0, 0]), "3 values need 1 bytes; 0 are there"),
}


@pytest.mark.parametrize("name", BROKEN_OCTAVES)
def test_broken_octaves_are_named(name: str) -> None:
    blob, match = BROKEN_OCTAVES[name]
    with pytest.raises(ValueError, match=match):
        octaves.unpack_octaves(memoryview(blob), 3)


def test_broken_integers_are_named() -> None:
    for broken, match in ((b"", "missing"), (bytes([32, 0, 0]), "32 low bits"), (bytes([31]) + bytes(9), "ends after")):
        with pytest.raises(ValueError, match=match):
            bits.unpack_rice(memoryview(broken), 2)
    with pytest.raises(ValueError, match=r"2\^40 or more"):
        bits.unpack_rice(memoryview(bytes([31, 0, 0, 0, 0]) + bytes(64) + b"\x01"), 1)
    with pytest.raises(ValueError, match="33 bits"):
        NUMPY.unpack_offset(memoryview(bytes([33]) + bytes(40)), 3)


def test_a_codec_can_be_chosen_and_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with coding.using("numpy") as codec:
        assert coding.codec_in_use() == "numpy" and coding.active() is codec

    def missing(name: str) -> None:
        raise ImportError(f"no {name} here")

    monkeypatch.setattr(coding, "import_module", missing)
    with (
        pytest.raises(StoreError, match=r"no distill_core\._codec here.*install a C\+\+ compiler"),
        coding.using("compiled"),
    ):
        pass
    monkeypatch.setattr(coding, "_chosen", None)
    assert coding.codec_in_use() == "numpy"
