"""Sentence embeddings by an encoder of Transformers.

Legend: n texts, D width, B texts of a pass, T positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from distill_synthesis.filters.loading import context_tokens, load, padded
from distill_synthesis.filters.model_options import SemanticDedupOptions

PASS_TEXTS = 32


class Encoder:
    """Any encoder directory; the mean of the last hidden states over a text's tokens, or the first, at length 1."""

    def __init__(self, options: SemanticDedupOptions, *, asks: str) -> None:
        self.options = options
        self.model, self.tokenizer = load(options, "AutoModel", asks=asks)
        self.length = context_tokens(self.model, options.length_tokens)

    @torch.no_grad()
    def embed(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """[n, D], of length 1; a text without any token has all zeros."""
        rows = [
            list(self.tokenizer(text, truncation=True, max_length=self.length, verbose=False)["input_ids"])
            for text in texts
        ]
        found = np.zeros((len(rows), self.model.config.get_text_config().hidden_size), dtype=np.float32)
        order = sorted((i for i, row in enumerate(rows) if row), key=lambda i: len(rows[i]))
        for start in range(0, len(order), PASS_TEXTS):
            places = order[start : start + PASS_TEXTS]
            found[places] = self._pass([rows[place] for place in places])
        return found

    def _pass(self, rows: list[list[int]]) -> Any:
        ids_BT, mask_BT = padded(rows, next(self.model.parameters()).device)
        states_BTD = self.model(input_ids=ids_BT, attention_mask=mask_BT).last_hidden_state.float()
        if self.options.pooling == "first":
            pooled_BD = states_BTD[:, 0]
        else:
            weights_BT1 = mask_BT[..., None].float()
            pooled_BD = (states_BTD * weights_BT1).sum(1) / weights_BT1.sum(1)
        return torch.nn.functional.normalize(pooled_BD, dim=-1).cpu().numpy()
