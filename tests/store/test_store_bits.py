"""Integer codes give back what they were given, for every width and shape."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill_core.store import bits
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
