"""Losses of a causal language model on single sequences.

Legend: B sequences of a pass, T positions, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from distill_synthesis.filters.loading import padded

PASS_TOKENS = 1024
"""Positions of a pass, padding included, unless a single sequence has more: [B, T, V] logits are held for them."""


@torch.no_grad()
def summed_losses(model: Any, sequences: Sequence[tuple[list[int], int]]) -> list[float]:
    """Sum of ``-log p(token | those before it)`` of each sequence, in nat.

    Args:
        model: causal, on its device.
        sequences: (token ids, first index that is predicted); index 0 never is.
    """
    device = next(model.parameters()).device
    sums = [0.0] * len(sequences)
    for places in _passes(sequences):
        ids_BT, mask_BT = padded([sequences[place][0] for place in places], device)
        logits_BTV = model(input_ids=ids_BT, attention_mask=mask_BT, use_cache=False).logits[:, :-1].float()
        targets_BT = ids_BT[:, 1:]
        chosen_BT = logits_BTV.gather(-1, targets_BT[..., None])[..., 0]
        losses_BT = torch.logsumexp(logits_BTV, dim=-1) - chosen_BT
        for row, place in enumerate(places):
            ids, first = sequences[place]
            sums[place] = float(losses_BT[row, max(0, first - 1) : len(ids) - 1].double().sum())
    return sums


def _passes(sequences: Sequence[tuple[list[int], int]]) -> Iterator[list[int]]:
    """Indices of sequences of two tokens or more, of similar length together."""
    order = sorted((i for i, (ids, _) in enumerate(sequences) if len(ids) > 1), key=lambda i: len(sequences[i][0]))
    held: list[int] = []
    for place in order:
        if held and (len(held) + 1) * len(sequences[place][0]) > PASS_TOKENS:
            yield held
            held = []
        held.append(place)
    if held:
        yield held
