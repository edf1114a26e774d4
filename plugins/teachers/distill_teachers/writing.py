"""Batched writing with a Transformers causal language model: left padding, one key-value cache, a seed per request.

Legend: B prompts of a batch, T positions, V vocabulary.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from distill_core.completions import GenerationParameters, TokenLogprob, WrittenToken, uniform


@dataclass
class Draft:
    """One answer under way.

    Args:
        prompt: token ids, at least one.
        seed: of its random numbers.
        room: tokens that may be written (``max_new_tokens``, or what the context leaves).
        ids: written so far, without an end token.
        finish_reason: empty while it is under way.
        cut: where a stop text begins in the written text, if one was written.
    """

    prompt: Sequence[int]
    seed: int
    room: int
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    tops: list[list[tuple[int, float]]] = field(default_factory=list)
    finish_reason: str = ""
    cut: int | None = None


class Writer:
    """Writes with a model.

    Args:
        model: a causal language model in eval mode.
        tokenizer: its tokenizer.
        valid_vocab: ids that stand for tokens; the rest are padding rows of the head and are never written.
    """

    def __init__(self, model: Any, tokenizer: Any, *, valid_vocab: int) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.valid_vocab = valid_vocab
        self.ends = _end_ids(model, tokenizer)
        accepted = inspect.signature(model.forward).parameters
        self._extras = [name for name in ("position_ids", "logits_to_keep") if name in accepted]

    @torch.no_grad()
    def write(self, drafts: Sequence[Draft], parameters: GenerationParameters) -> None:
        """Finish all drafts, as one batch.

        Rows that are finished leave the batch when half of it is; what a row writes depends on its own prompt and seed,
        up to the rounding of batched products.
        """
        device = self.model.device
        active = [draft for draft in drafts if not draft.finish_reason]
        ids_BT, mask_BT = _left_padded([draft.prompt for draft in active], device)
        cache: Any = None
        while active:
            output = self.model(**self._inputs(ids_BT, mask_BT), past_key_values=cache, use_cache=True)
            cache = output.past_key_values
            logits_BV = output.logits[:, -1, : self.valid_vocab].float()
            chosen = self._step(active, logits_BV, parameters)
            going = [row for row, draft in enumerate(active) if not draft.finish_reason]
            if not going:
                return
            if len(going) <= len(active) // 2:
                rows = torch.tensor(going, device=device)
                cache.batch_select_indices(rows)
                mask_BT, active = mask_BT[rows], [active[row] for row in going]
                chosen = [chosen[row] for row in going]
            ids_BT = torch.tensor(chosen, device=device)[:, None]
            mask_BT = torch.cat([mask_BT, torch.ones_like(mask_BT[:, :1])], dim=1)

    def _inputs(self, ids_BT: Tensor, mask_BT: Tensor) -> dict[str, Any]:
        inputs: dict[str, Any] = {"input_ids": ids_BT, "attention_mask": mask_BT}
        if "position_ids" in self._extras:
            position_BT = (mask_BT.cumsum(dim=1) - 1).clamp_min(0)
            inputs["position_ids"] = position_BT[:, -ids_BT.shape[1] :]
        if "logits_to_keep" in self._extras:
            inputs["logits_to_keep"] = 1
        return inputs

    def _step(self, active: Sequence[Draft], logits_BV: Tensor, parameters: GenerationParameters) -> list[int]:
        """One token for each row (any, where the row is finished)."""
        chosen_B = _chosen(logits_BV, active, parameters)
        logp_BV = torch.log_softmax(logits_BV, dim=1)
        logprob_B = logp_BV.gather(1, chosen_B[:, None])[:, 0].tolist()
        k = min(parameters.top_logprobs, logp_BV.shape[1])
        top = logp_BV.topk(k, dim=1) if k else None
        chosen = chosen_B.tolist()
        for row, draft in enumerate(active):
            if draft.finish_reason:
                continue
            if chosen[row] in self.ends:
                draft.finish_reason = "stop"
                continue
            draft.ids.append(chosen[row])
            if top is not None:
                draft.logprobs.append(logprob_B[row])
                draft.tops.append(list(zip(top.indices[row].tolist(), top.values[row].tolist(), strict=True)))
            self._judge(draft, parameters)
        return chosen

    def _judge(self, draft: Draft, parameters: GenerationParameters) -> None:
        if parameters.stop:
            text = self.text(draft)
            found = [text.find(stop) for stop in parameters.stop if stop in text]
            if found:
                draft.cut, draft.finish_reason = min(found), "stop"
                return
        if len(draft.ids) >= draft.room:
            draft.finish_reason = "length"

    def text(self, draft: Draft) -> str:
        """What was written; decoded behind the end of the prompt, so that a leading space is kept."""
        context = list(draft.prompt[-8:])
        before, whole = self._decoded(context), self._decoded(context + draft.ids)
        text = whole[len(before) :] if whole.startswith(before) else self._decoded(draft.ids)
        return text if draft.cut is None else text[: draft.cut]

    def _decoded(self, ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def tokens(self, draft: Draft) -> tuple[WrittenToken, ...]:
        """The written tokens with their log-probabilities."""
        return tuple(
            WrittenToken(
                self._shown(index), logprob, index, tuple(TokenLogprob(self._shown(i), value, i) for i, value in top)
            )
            for index, logprob, top in zip(draft.ids, draft.logprobs, draft.tops, strict=True)
        )

    def _shown(self, index: int) -> str:
        return str(self.tokenizer.decode([index], clean_up_tokenization_spaces=False))


def _chosen(logits_BV: Tensor, active: Sequence[Draft], parameters: GenerationParameters) -> Tensor:
    """[B] token ids: the most likely, or drawn by inverting the distribution function at each row's own number."""
    if parameters.temperature == 0:
        return logits_BV.argmax(dim=1)
    probability_BV = torch.softmax(logits_BV.double() / parameters.temperature, dim=1)
    if parameters.top_p < 1:
        ordered_BV, index_BV = probability_BV.sort(dim=1, descending=True, stable=True)
        before_BV = ordered_BV.cumsum(dim=1) - ordered_BV
        kept_BV = torch.zeros_like(probability_BV).scatter(1, index_BV, (before_BV < parameters.top_p).double())
        probability_BV = probability_BV * kept_BV
    below_BV = probability_BV.cumsum(dim=1)
    numbers = [uniform(draft.seed, len(draft.ids)) for draft in active]
    number_B1 = torch.tensor(numbers, dtype=torch.float64, device=logits_BV.device)[:, None]
    index_B1 = torch.searchsorted(below_BV, number_B1 * below_BV[:, -1:], right=True)
    last_B1 = (probability_BV > 0).long().cumsum(dim=1).argmax(dim=1, keepdim=True)
    return torch.minimum(index_B1, last_B1)[:, 0]


def _left_padded(prompts: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Ids (padded with 0, which the mask hides) and mask, [B, T]."""
    longest = max((len(prompt) for prompt in prompts), default=0)
    ids = [[0] * (longest - len(prompt)) + list(prompt) for prompt in prompts]
    mask = [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)


def _end_ids(model: Any, tokenizer: Any) -> frozenset[int]:
    """Ids that end an answer: the generation settings' and the tokenizer's end tokens."""
    settings = getattr(model, "generation_config", None)
    given = getattr(settings, "eos_token_id", None)
    ends = set(given if isinstance(given, list | tuple) else [] if given is None else [given])
    if tokenizer.eos_token_id is not None:
        ends.add(int(tokenizer.eos_token_id))
    return frozenset(int(index) for index in ends)
