"""FLOPs against published counts, and what a store saves."""

from __future__ import annotations

import pytest

from distill_core.planning.compute import Budget, break_even, forward_flops, teacher_figures, training_flops
from distill_core.planning.shape import ModelShape, shape_of_size

TABLE_13 = [
    # name, N, N total, layers, hidden, forward FLOPs per token of the full count; all in billions where no integer
    ("143M", 0.1434, 0.1811, 9, 1152, 0.4487),
    ("546M", 0.546, 0.6047, 14, 1792, 1.417),
    ("1.82B", 1.821, 1.909, 21, 2688, 4.284),
    ("7.75B", 7.747, 7.889, 34, 4352, 17.0),
]
"""Rows of Table 13 of arXiv 2502.08606 (context 4,096, vocabulary 32,768)."""


@pytest.mark.parametrize("row", TABLE_13, ids=[row[0] for row in TABLE_13])
def test_sizes_and_flops_of_table_13(row: tuple[str, float, float, int, int, float]) -> None:
    _, body, total, layers, hidden, forward = row
    shape = shape_of_size(total * 1e9, label="student", vocabulary=32_768)
    assert (shape.layers, shape.hidden) == (layers, hidden)
    assert shape.body == pytest.approx(body * 1e9, rel=0.005)
    assert forward_flops(shape, 4096) == pytest.approx(forward * 1e9, rel=0.006)


def test_six_n_d_where_attention_and_head_are_small() -> None:
    shape = ModelShape(1e11, 8192, 100, 8192, 8192, 22_000, 1000)
    assert training_flops(shape, 16) == pytest.approx(6 * shape.body, rel=0.01)
    assert training_flops(shape, 16, checkpointing=True) == pytest.approx(8 * shape.body, rel=0.01)


def test_a_live_teacher_pays_for_every_epoch() -> None:
    teacher = shape_of_size(1e9, label="teacher", vocabulary=32_768)
    budget = Budget(tokens=3e9, epochs=3, flops_per_s=1e14, utilisation=0.5)
    found = {figure.key: figure for figure in teacher_figures(teacher, budget, stored_bytes=27.0, teacher_tokens=2e10)}
    assert found["teacher_live"].value == pytest.approx(3 * found["teacher_capture"].value)
    assert found["teacher_training"].value == pytest.approx(training_flops(teacher, 1024) * 2e10)
    assert found["teacher_live_time"].value == pytest.approx(found["teacher_live"].value / 5e13)
    assert found["teacher_live"].unit == "FLOP"
    assert found["teacher_live_time"].unit == "s"


def test_break_even_is_where_both_cost_the_same() -> None:
    budget = Budget(tokens=1e9, flops_per_s=1e12, utilisation=0.5, disk_bytes_per_s=1e6)
    passes = break_even(1e9, 200.0, budget)
    assert passes is not None
    teacher, disk = 1e9 / 5e11, 200.0 / 1e6
    assert teacher + disk + passes * disk == pytest.approx(passes * teacher)
    assert break_even(1e9, 1e6, budget) is None  # reading is slower than computing
    assert break_even(1e9, 200.0, Budget(tokens=1e9)) is None
