"""Attention labels: what a synthetic text's class shall be read from, learned beside its label and written with it.

A label says, block by block and head by head, how the position of the class (the first token, or the last one) shall
attend to all tokens of the text, special ones included. It stands for the S last blocks of a student.

Legend: B texts, S blocks, H heads, T positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

FIELD = "attention"
"""Of a record: ``{"blocks": [from 1], "position": 0 or -1, "probabilities": [S, H, T]}``."""

DECIMALS = 6
"""Of a written probability."""


def attended(attentions: Sequence[Tensor], position_B: Tensor, blocks: int) -> Tensor:
    """[B, S, H, T]: what one position of each text attends to in the last blocks.

    Args:
        attentions: probabilities [B, H, T, T] of all blocks.
        position_B: int64.
        blocks: S.
    """
    rows_B = torch.arange(len(position_B), device=position_B.device)
    return torch.stack([x[rows_B, :, position_B] for x in attentions[-blocks:]], dim=1)


def attention_divergence(label_BSHT: Tensor, found_BSHT: Tensor) -> Tensor:
    """[B] KL(label || found) in nat, the mean over blocks and heads. 0 where the label is 0 (padding).

    >>> label = torch.tensor([[[[0.5, 0.5, 0.0]]]])
    >>> round(attention_divergence(label, torch.tensor([[[[0.25, 0.75, 0.0]]]])).item(), 4)
    0.1438
    """
    tiny = torch.finfo(found_BSHT.dtype).tiny
    gap = label_BSHT.clamp_min(tiny).log() - found_BSHT.clamp_min(tiny).log()
    return (label_BSHT * gap).sum(-1).mean((1, 2))


def as_label(logits_BSHT: Tensor, tokens_BT: Tensor) -> Tensor:
    """[B, S, H, T] probabilities over the tokens of each text, 0 on padding."""
    hidden = ~tokens_BT.bool()[:, None, None, :]
    return logits_BSHT.masked_fill(hidden, float("-inf")).softmax(-1)


def as_logits(label_BSHT: Tensor) -> Tensor:
    """Finite logits of which :func:`as_label` makes the label again."""
    return label_BSHT.clamp_min(1e-6).log()


def as_field(label_SHT: Tensor, *, depth: int, position: int) -> dict[str, Any]:
    """What a record holds.

    Args:
        label_SHT: probabilities over the tokens of the text, no padding.
        depth: blocks of the student.
        position: 0 or -1.

    >>> as_field(torch.tensor([[[0.25, 0.75]]]), depth=2, position=0)
    {'blocks': [2], 'position': 0, 'probabilities': [[[0.25, 0.75]]]}
    """
    blocks = label_SHT.shape[0]
    rounded = [[[round(p, DECIMALS) for p in row] for row in heads] for heads in label_SHT.tolist()]
    return {"blocks": list(range(depth - blocks + 1, depth + 1)), "position": position, "probabilities": rounded}
