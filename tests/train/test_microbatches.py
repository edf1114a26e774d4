"""Data order: by seed, the same however a step is split."""

from __future__ import annotations

import pytest

from distill_core.engine.data import TokenDataset
from distill_core.engine.microbatches import MicroBatches, steps_of
from distill_core.errors import TrainingError


def documents(
    data: TokenDataset, *, batch: int, accumulation: int, world: int, steps: int = 5, seed: int = 0
) -> list[list[str]]:
    """Documents of every step, over all processes and micro-batches in order."""
    ranks = [
        MicroBatches(
            data, batch_sequences=batch, accumulation_steps=accumulation, total_steps=steps, seed=seed, rank=rank,
            world_size=world,
        )
        for rank in range(world)
    ]  # fmt: skip
    assert all(len(rank) == steps * accumulation for rank in ranks)
    return [
        [
            document
            for rank in ranks
            for micro in range(accumulation)
            for document in rank[step * accumulation + micro]["batch"].documents
        ]
        for step in range(steps)
    ]


def test_every_split_sees_the_same_sequences_in_the_same_steps(data: TokenDataset) -> None:
    whole = documents(data, batch=8, accumulation=1, world=1)
    for batch, accumulation, world in [(1, 8, 1), (2, 4, 1), (4, 1, 2), (2, 2, 2), (1, 1, 8)]:
        assert documents(data, batch=batch, accumulation=accumulation, world=world) == whole


def test_each_epoch_is_another_permutation_of_all_sequences(data: TokenDataset) -> None:
    stream = [name for step in documents(data, batch=8, accumulation=1, world=1, steps=6) for name in step]
    epochs = [stream[i : i + 12] for i in range(0, 48, 12)]
    assert all(sorted(epoch) == sorted(f"d{i}" for i in range(12)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4
    assert documents(data, batch=8, accumulation=1, world=1, seed=1) != documents(
        data, batch=8, accumulation=1, world=1
    )


def test_any_item_can_be_asked_for_first(data: TokenDataset) -> None:
    settings = {"batch_sequences": 5, "accumulation_steps": 2, "total_steps": 9, "seed": 4}
    in_order = MicroBatches(data, **settings)
    expected = [in_order[i]["batch"].documents for i in range(18)]
    backwards = MicroBatches(data, **settings)
    assert [backwards[i]["batch"].documents for i in reversed(range(18))] == expected[::-1]


def test_steps_cover_the_data() -> None:
    assert steps_of(max_steps=None, epochs=2.0, sequences=12, sequences_per_step=8) == 3
    assert steps_of(max_steps=None, epochs=0.1, sequences=12, sequences_per_step=8) == 1
    assert steps_of(max_steps=7, epochs=2.0, sequences=12, sequences_per_step=8) == 7


def test_no_data_is_an_error() -> None:
    with pytest.raises(TrainingError, match=r"no training sequences; look at data\.train"):
        MicroBatches([], batch_sequences=1, accumulation_steps=1, total_steps=1, seed=0)
