"""Batches, rows and targets: the next-token shift, masks, and the views of a teacher's target."""

from __future__ import annotations

import math

import pytest
import torch

from distill_core.types import IGNORE, RowTarget, TokenBatch


def batch(labels: list[list[int]], attention: list[list[int]], weights: list[list[float]] | None = None) -> TokenBatch:
    return TokenBatch(
        input_ids_BT=torch.arange(len(labels) * len(labels[0])).view(len(labels), -1),
        attention_mask_BT=torch.tensor(attention),
        labels_BT=torch.tensor(labels),
        keys=tuple(bytes([i]) * 16 for i in range(len(labels))),
        weights_BT=None if weights is None else torch.tensor(weights),
    )


def test_position_t_predicts_token_t_plus_1() -> None:
    rows = batch([[5, 6, 7], [8, IGNORE, 9]], [[1, 1, 1]] * 2, [[1, 2, 3], [4, 5, 6]]).rows()
    assert rows.sequence_N.tolist() == [0, 0, 1]
    assert rows.position_N.tolist() == [0, 1, 1]
    assert rows.labels_N.tolist() == [6, 7, 9]
    assert rows.weights_N.tolist() == [2, 3, 6]  # a weight belongs to the token that is predicted


def test_padding_is_no_row_even_where_it_carries_a_label() -> None:
    rows = batch([[5, 6, 7, 7], [8, 9, 9, 9]], [[1, 1, 1, 0], [1, 1, 0, 0]]).rows()
    assert list(zip(rows.sequence_N.tolist(), rows.position_N.tolist(), strict=True)) == [(0, 0), (0, 1), (1, 0)]


@pytest.mark.parametrize("tail", [0.3, 1e-3, 1e-5, 1e-8, 0.0])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_the_head_view_is_exact(tail: float, temperature: float) -> None:
    """Entries above c with their own probability, the rest in the tail, sums to 1; the sampled ones are left out."""
    weights = torch.tensor([[0.75 * (1 - tail), 0.25 * (1 - tail), tail / 2, tail / 2]], dtype=torch.float64)
    target = RowTarget(
        kind="sampled",
        ids_NK=torch.tensor([[4, 2, 7, 9 if tail else -1]]),
        temperatures=(temperature,),
        weights_NK=weights.float(),
        threshold_N=weights[:, 2].float(),
    )
    head = target.head()
    assert head.kind == "exact" and head.ids_NK.tolist() == [[4, 2, -1, -1]]
    probabilities = head.log_probs(temperature).exp()[0].double()
    expected = torch.tensor([0.75 * (1 - tail), 0.25 * (1 - tail), 0, 0, tail], dtype=torch.float64)
    torch.testing.assert_close(probabilities, expected, rtol=3e-6, atol=0)  # fp32 logits near log 1e-8 resolve 2e-6


def test_what_a_target_cannot_give_is_refused() -> None:
    drawn = RowTarget("sampled", torch.tensor([[1]]), (1.0,), weights_NK=torch.ones(1, 1))
    with pytest.raises(ValueError, match="sampled target"):
        drawn.log_probs()
    with pytest.raises(ValueError, match="multinomial"):
        drawn.head()
    exact = RowTarget("exact", torch.tensor([[1]]), (1.0,), logits_NK=torch.zeros(1, 1), tail_NM=torch.zeros(1, 1))
    assert exact.log_probs()[0].tolist() == pytest.approx([math.log(0.5)] * 2)
    with pytest.raises(ValueError, match=r"holds \[1\.0\]"):
        exact.log_probs(2.0)
