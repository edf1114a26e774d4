"""What models write: greedily or drawn, after prompts that are texts or token ids.

Legend: B prompts of a batch, T positions.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from distill_core.errors import SignalError
from distill_core.interfaces import EvaluationContext
from distill_core.types import IGNORE
from distill_evaluation.held_out import some_batches
from distill_evaluation.own_text import continued


@dataclass(frozen=True)
class Prompt:
    """The beginning of a held-out sequence, and how the data goes on."""

    document: str
    key: int
    ids: list[int]
    rest: list[int]


def held_out_prompts(context: EvaluationContext, prefix_tokens: int, most: int) -> list[Prompt]:
    """Of at most so many held-out sequences: the record's own prompt, or the first tokens of a plain text."""
    found = []
    for batch in some_batches(context, most):
        rows = zip(batch.input_ids_BT, batch.attention_mask_BT, batch.labels_BT, strict=True)
        for index, (ids, mask, labels) in enumerate(rows):
            tokens = int(mask.sum())
            predicted = (labels[:tokens] != IGNORE).nonzero()
            masked = int(predicted[0]) if len(predicted) else tokens
            at = masked if masked > 1 else min(prefix_tokens, tokens)
            whole = ids[:tokens].tolist()
            number = int.from_bytes(batch.keys[index], "big")
            found.append(Prompt(batch.documents[index], number, whole[:at], whole[at:]))
    return found


def drawn(
    context: EvaluationContext,
    prompts: Sequence[tuple[int, list[int]]],
    *,
    max_new_tokens: int,
    temperature: float,
    seed: int,
    batch: int,
) -> list[str]:
    """One drawn continuation per (number, token ids), without the prompt and special tokens.

    The random numbers are keyed by the seed and the number alone: every model draws with the same ones, whatever the
    batch.

    Raises:
        SignalError: a prompt that does not fit the model's context.
    """
    by_length: defaultdict[int, list[int]] = defaultdict(list)
    for index, (_, ids) in enumerate(prompts):
        by_length[len(ids)].append(index)
    _check_fits(context.model, max(by_length, default=0), max_new_tokens)
    texts, tokenizer = [""] * len(prompts), context.tokenizer
    for chosen in by_length.values():
        for start in range(0, len(chosen), batch):
            part = chosen[start : start + batch]
            numbers = [np.random.default_rng([seed, prompts[i][0]]).random(max_new_tokens) for i in part]
            written = continued(
                context.model,
                torch.tensor([prompts[i][1] for i in part]),
                np.stack(numbers),
                vocabulary=len(tokenizer),
                end=tokenizer.eos_token_id,
                temperature=temperature,
            )
            for index, ids in zip(part, written, strict=True):
                texts[index] = tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return texts


def _check_fits(model: Any, longest: int, max_new_tokens: int) -> None:
    limit = getattr(model.config, "max_position_embeddings", None)
    if limit is not None and longest + max_new_tokens > limit:
        raise SignalError(
            f"a prompt of {longest} tokens and an answer of {max_new_tokens} do not fit the context of {limit} tokens"
        )


def write(model: Any, tokenizer: Any, prompts: Sequence[str], max_new_tokens: int, batch: int) -> tuple[list[str], int]:
    """Greedy continuations without the prompts, batched with left padding, and how many tokens were written.

    Prompts are encoded without special tokens, as the data stage encodes them; a model's own generation settings are
    set aside, so that all are asked alike.

    Raises:
        SignalError: a prompt that does not fit the model's context.
    """
    encoded = [list(tokenizer(prompt, add_special_tokens=False)["input_ids"]) for prompt in prompts]
    written = write_ids(model, tokenizer, encoded, max_new_tokens, batch)
    texts = [
        str(tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)) for ids in written
    ]
    return texts, sum(map(len, written))


@torch.no_grad()
def write_ids(
    model: Any, tokenizer: Any, encoded: Sequence[Sequence[int]], max_new_tokens: int, batch: int
) -> list[list[int]]:
    """The same on token ids, up to the end token, which is left out."""
    from transformers import GenerationConfig

    if not encoded:
        return []
    _check_fits(model, max(map(len, encoded)), max_new_tokens)
    end = tokenizer.eos_token_id
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else (end if end is not None else 0)
    make_settings: Any = GenerationConfig
    settings = make_settings(
        do_sample=False, max_new_tokens=max_new_tokens, eos_token_id=end, pad_token_id=pad, use_cache=True
    )
    order = sorted(range(len(encoded)), key=lambda index: len(encoded[index]))
    found: list[list[int]] = [[] for _ in encoded]
    own, model.generation_config = model.generation_config, settings
    try:
        for start in range(0, len(order), batch):
            chosen = order[start : start + batch]
            ids_BT, mask_BT = _left_padded([encoded[index] for index in chosen], pad, model.device)
            output_BT = model.generate(input_ids=ids_BT, attention_mask=mask_BT)
            for index, ids in zip(chosen, output_BT[:, ids_BT.shape[1] :].tolist(), strict=True):
                found[index] = ids[: ids.index(end)] if end in ids else ids
    finally:
        model.generation_config = own
    return found


def _left_padded(rows: Sequence[Sequence[int]], pad: int, device: Any) -> tuple[torch.Tensor, torch.Tensor]:
    width = max(map(len, rows))
    ids_BT = torch.tensor([[pad] * (width - len(row)) + list(row) for row in rows], device=device)
    mask_BT = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=device)
    return ids_BT, mask_BT
