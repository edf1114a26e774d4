"""What a model says of tokens that are written: their log-probabilities, and its entropy there.

Legend: B sequences, T positions, V head rows.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

CHUNK_BYTES = 64 * 2**20
"""Logits of so many bytes exist at a time."""


@torch.no_grad()
def read(
    model: Any, input_ids_BT: Tensor, attention_mask_BT: Tensor, *, rows: int | None = None
) -> tuple[Tensor, Tensor]:
    """Log-probability of every token given those before it, and the entropy of the distribution it came from, in nat.

    Args:
        model: a causal language model in eval mode.
        input_ids_BT: padded on the right.
        attention_mask_BT: 1 on tokens.
        rows: head rows that the distribution is normalised over; None: all.

    Returns:
        Two float32 [B, T] tensors on the CPU; NaN at the first position, which nothing predicts. Padding is
        meaningless.
    """
    device = next(model.parameters()).device
    width, head_rows = input_ids_BT.shape[1], int(model.get_output_embeddings().weight.shape[0])
    at_once = max(1, CHUNK_BYTES // (4 * width * head_rows))
    logp_BT = torch.full(input_ids_BT.shape, torch.nan)
    entropy_BT = torch.full(input_ids_BT.shape, torch.nan)
    for start in range(0, input_ids_BT.shape[0], at_once):
        cut = slice(start, start + at_once)
        ids_bT = input_ids_BT[cut].to(device)
        output = model(input_ids=ids_bT, attention_mask=attention_mask_BT[cut].to(device), use_cache=False)
        all_bTV = torch.log_softmax(output.logits[:, :-1, :rows].float(), dim=-1)
        logp_BT[cut, 1:] = all_bTV.gather(2, ids_bT[:, 1:, None])[..., 0].cpu()
        entropy_BT[cut, 1:] = -torch.special.xlogy(all_bTV.exp(), all_bTV.exp()).sum(-1).cpu()
    return logp_BT, entropy_BT
