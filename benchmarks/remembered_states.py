"""A teacher that reads each sequence of an experiment once: its hidden states are kept, on disk too.

Everything behind them (head, top-k, samples, losses) is computed anew each time by the library's own code, and a
sequence that was not read before, such as one that a student wrote, goes through the model.

Legend: B sequences, T positions, D hidden.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from distill_core.types import TokenBatch


class RememberedStates:
    """Takes the place of a decoder's ``forward``.

    Args:
        decoder: a Transformers decoder; from now on it answers through this object.
        layers: whose hidden states are kept, 0 being the embeddings and the number of blocks the last one. Asked for
            all, it gives states of width 0 for the others.
    """

    def __init__(self, decoder: Any, layers: Sequence[int]) -> None:
        self.depth = int(decoder.config.num_hidden_layers)
        self.layers = sorted({*layers, self.depth})
        self.read = decoder.forward
        self.known: dict[bytes, Tensor] = {}
        self.passes = 0
        """How often the model itself was run."""
        decoder.forward = self

    def __call__(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        output_hidden_states: bool = False,
        **others: Any,
    ) -> Any:
        from transformers.modeling_outputs import BaseModelOutputWithPast

        plain = input_ids is not None and not others.get("output_attentions") and not others.get("use_cache")
        if plain and attention_mask is not None and attention_mask.dim() == 2:
            assert input_ids is not None
            names = [name_of(*pair) for pair in zip(input_ids, attention_mask, strict=True)]
            if all(name in self.known for name in names):
                states = self._assembled([self.known[name] for name in names], input_ids.shape[1])
                absent_BT0 = states[self.depth].new_empty(*input_ids.shape, 0)
                kept = tuple(states.get(layer, absent_BT0) for layer in range(self.depth + 1))
                return BaseModelOutputWithPast(
                    last_hidden_state=states[self.depth], hidden_states=kept if output_hidden_states else None
                )
        self.passes += 1
        return self.read(
            input_ids=input_ids, attention_mask=attention_mask, output_hidden_states=output_hidden_states, **others
        )

    def _assembled(self, kept: Sequence[Tensor], length: int) -> dict[int, Tensor]:
        """[B, T, D] by layer, zero on padding."""
        states_LBTD = kept[0].new_zeros(len(self.layers), len(kept), length, kept[0].shape[-1])
        for row, states_LTD in enumerate(kept):
            states_LBTD[:, row, : states_LTD.shape[1]] = states_LTD
        return dict(zip(self.layers, states_LBTD, strict=True))

    @torch.no_grad()
    def remember(self, batches: Iterable[TokenBatch], path: Path) -> None:
        """Read the batches, or take from ``path`` what an earlier process read."""
        if path.exists():
            kept = torch.load(path, weights_only=True)
            if kept["layers"] == self.layers:
                self.known.update(zip(kept["names"], kept["states"], strict=True))
        new = False
        for batch in batches:
            masks_BT = batch.attention_mask_BT
            names = [name_of(*pair) for pair in zip(batch.input_ids_BT, masks_BT, strict=True)]
            if all(name in self.known for name in names):
                continue
            new = True
            output = self.read(
                input_ids=batch.input_ids_BT, attention_mask=masks_BT, output_hidden_states=True, use_cache=False
            )
            # Transformers' last entry is the state behind the final norm, which is what the head reads.
            states_LBTD = torch.stack([output.hidden_states[layer] for layer in self.layers])
            for row, name in enumerate(names):
                self.known[name] = states_LBTD[:, row, : int(masks_BT[row].sum())].clone()
        if new:
            path.parent.mkdir(parents=True, exist_ok=True)
            names = list(self.known)
            torch.save(
                {"layers": self.layers, "names": names, "states": [self.known[name] for name in names]},
                path.with_suffix(".part"),
            )
            path.with_suffix(".part").replace(path)


def name_of(ids_T: Tensor, mask_T: Tensor) -> bytes:
    """A sequence's own tokens, as bytes."""
    return bytes(ids_T[mask_T != 0].to(torch.int32).numpy().tobytes())
