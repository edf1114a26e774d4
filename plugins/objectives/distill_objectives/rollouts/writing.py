"""Batched sampling with key-value caches from one model or from a mixture of several, and what was sampled how.

Legend: B sequences, T positions, V ids that may be written.

Every sequence brings its own uniform numbers and inverts the distribution function at them, so what it writes does not
depend on what else is in the batch (up to the rounding of batched products).
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn.

    Args:
        temperature: of every model's softmax.
        top_k: only the so many most likely tokens; None: all.
        top_p: only the smallest set of tokens with this probability; 1: all.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float = 1.0


@dataclass(frozen=True)
class Voice:
    """One model of a mixture.

    Args:
        model: a causal language model in eval mode.
        share: its weight in the mixture.
        rows: head rows its own log-probabilities are normalised over; None: all.
    """

    model: Any
    share: float = 1.0
    rows: int | None = None


@dataclass
class Draft:
    """A response under way.

    Args:
        prompt: token ids, at least one.
        uniforms: one number in [0, 1) per token that may be written.
        ids: written so far, the end token included.
        behaviour_logp: log-probability of each under the distribution it was drawn from, cuts and temperature included.
        own_logp: per voice, log-probability of each under the model itself at temperature 1.
    """

    prompt: Sequence[int]
    uniforms: NDArray[np.float64]
    ids: list[int] = field(default_factory=list)
    behaviour_logp: list[float] = field(default_factory=list)
    own_logp: list[list[float]] = field(default_factory=list)

    def done(self, end: int | None) -> bool:
        return len(self.ids) >= len(self.uniforms) or (bool(self.ids) and self.ids[-1] == end)


@torch.no_grad()
def write(
    voices: Sequence[Voice],
    drafts: Sequence[Draft],
    *,
    sampling: Sampling,
    valid_vocab: int,
    end: int | None = None,
    batch_size: int = 32,
) -> None:
    """Finish all drafts in place, ``batch_size`` at a time.

    Args:
        voices: models whose distributions are mixed by their shares; all in one vocabulary.
        drafts: what is to be written.
        sampling: how tokens are drawn.
        valid_vocab: ids below this may be written; the rest are padding rows of a head.
        end: id that ends a response and is its last token; None: every response has full length.
        batch_size: sequences at a time.
    """
    for start in range(0, len(drafts), batch_size):
        _write_batch(voices, drafts[start : start + batch_size], sampling, valid_vocab, end)


def _write_batch(
    voices: Sequence[Voice], drafts: Sequence[Draft], sampling: Sampling, valid_vocab: int, end: int | None
) -> None:
    readers = [_Reader(voice) for voice in voices]
    for draft in drafts:
        draft.own_logp = [[] for _ in voices]
    active = list(drafts)
    ids_BT, mask_BT = left_padded([draft.prompt for draft in active])
    while active:
        logits = [reader.next_logits(ids_BT, mask_BT) for reader in readers]
        uniforms = torch.tensor([draft.uniforms[len(draft.ids)] if not draft.done(end) else 0.0 for draft in active])
        probability_BV = mixed(voices, logits, sampling, valid_vocab)
        chosen_B = drawn(probability_BV, uniforms.to(probability_BV))
        behaviour = probability_BV.gather(1, chosen_B[:, None])[:, 0].log().tolist()
        own = [_own_logp(voice, z_BV, chosen_B) for voice, z_BV in zip(voices, logits, strict=True)]
        chosen = chosen_B.tolist()
        for row, draft in enumerate(active):
            if not draft.done(end):
                draft.ids.append(chosen[row])
                draft.behaviour_logp.append(behaviour[row])
                for noted, values in zip(draft.own_logp, own, strict=True):
                    noted.append(values[row])
        going = [row for row, draft in enumerate(active) if not draft.done(end)]
        if not going:
            return
        if len(going) <= len(active) // 2 and all(reader.can_shrink for reader in readers):
            for reader in readers:
                reader.shrink(going)
            mask_BT, active, chosen = mask_BT[going], [active[row] for row in going], [chosen[row] for row in going]
        ids_BT = torch.tensor(chosen)[:, None]
        mask_BT = torch.cat([mask_BT, torch.ones_like(mask_BT[:, :1])], dim=1)


class _Reader:
    """A model with its cache."""

    def __init__(self, voice: Voice) -> None:
        self.model = voice.model
        self.device = next(voice.model.parameters()).device
        self.cache: Any = None
        accepted = inspect.signature(type(voice.model).forward).parameters
        self.takes = [name for name in ("position_ids", "logits_to_keep") if name in accepted]

    def next_logits(self, ids_BT: Tensor, mask_BT: Tensor) -> Tensor:
        """[B, rows of the head] logits behind the last token, float64, on the device of the model."""
        inputs: dict[str, Any] = {"input_ids": ids_BT.to(self.device), "attention_mask": mask_BT.to(self.device)}
        if "position_ids" in self.takes:
            position_BT = (mask_BT.cumsum(dim=1) - 1).clamp_min(0)
            inputs["position_ids"] = position_BT[:, -ids_BT.shape[1] :].to(self.device)
        if "logits_to_keep" in self.takes:
            inputs["logits_to_keep"] = 1
        output = self.model(**inputs, past_key_values=self.cache, use_cache=True)
        self.cache = output.past_key_values
        logits_BV: Tensor = output.logits[:, -1].double()
        return logits_BV

    @property
    def can_shrink(self) -> bool:
        return hasattr(self.cache, "batch_select_indices")

    def shrink(self, rows: Sequence[int]) -> None:
        self.cache.batch_select_indices(torch.tensor(rows, device=self.device))


def _own_logp(voice: Voice, logits_BV: Tensor, chosen_B: Tensor) -> list[float]:
    logp_BV = torch.log_softmax(logits_BV[:, : voice.rows], dim=1)
    values: list[float] = logp_BV.gather(1, chosen_B.to(logp_BV.device)[:, None])[:, 0].tolist()
    return values


def mixed(voices: Sequence[Voice], logits: Sequence[Tensor], sampling: Sampling, valid_vocab: int) -> Tensor:
    """[B, V] probabilities tokens are drawn with: the mixture of the tempered distributions, cut, summing to 1.

    Args:
        voices: give the shares.
        logits: [B, rows of the head] of each.
        sampling: temperature and cuts.
        valid_vocab: V.

    >>> z_BV = torch.tensor([[2.0, 1.0, 0.0, 9.0]], dtype=torch.float64)
    >>> mixed([Voice(None)], [z_BV], Sampling(top_k=2), valid_vocab=3).round(decimals=3)
    tensor([[0.7310, 0.2690, 0.0000]], dtype=torch.float64)
    """
    home = logits[0].device
    probability_BV = torch.zeros(())
    for voice, z_BV in zip(voices, logits, strict=True):
        own_BV = torch.softmax(z_BV[:, :valid_vocab] / sampling.temperature, dim=1).to(home)
        probability_BV = voice.share * own_BV + probability_BV.to(own_BV)
    if sampling.top_k is not None and sampling.top_k < probability_BV.shape[1]:
        top = probability_BV.topk(sampling.top_k, dim=1)
        probability_BV = torch.zeros_like(probability_BV).scatter(1, top.indices, top.values)
    if sampling.top_p < 1:
        ordered_BV, index_BV = probability_BV.sort(dim=1, descending=True, stable=True)
        before_BV = ordered_BV.cumsum(dim=1) - ordered_BV
        inside_BV = before_BV < sampling.top_p * ordered_BV.sum(dim=1, keepdim=True)
        probability_BV = torch.zeros_like(probability_BV).scatter(1, index_BV, ordered_BV * inside_BV)
    return probability_BV / probability_BV.sum(dim=1, keepdim=True)


def drawn(probability_BV: Tensor, uniforms_B: Tensor) -> Tensor:
    """[B] ids by inverting the distribution function; never one of probability 0.

    >>> drawn(torch.tensor([[0.25, 0.0, 0.75]]), torch.tensor([0.25])).tolist()
    [2]
    """
    below_BV = probability_BV.cumsum(dim=1)
    index_B1 = torch.searchsorted(below_BV, uniforms_B[:, None] * below_BV[:, -1:], right=True)
    last_B1 = (probability_BV > 0).long().cumsum(dim=1).argmax(dim=1, keepdim=True)
    return torch.minimum(index_B1, last_B1)[:, 0]


def left_padded(prompts: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Ids (padded with 0, which the mask hides) and mask, [B, T].

    >>> left_padded([[5, 6], [7]])[0].tolist()
    [[5, 6], [0, 7]]
    """
    longest = max((len(prompt) for prompt in prompts), default=0)
    ids = [[0] * (longest - len(prompt)) + list(prompt) for prompt in prompts]
    mask = [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    return torch.tensor(ids), torch.tensor(mask)


NOT_KNOWN = math.nan
"""A number that nobody computed; loud if somebody reads it all the same."""
