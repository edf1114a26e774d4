"""Greedy continuations for the report, and how fast models read and write on this machine.

Legend: B sequences, T positions.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

PREFILL_TOKENS = 256
"""Prompt length of the speed measurement, cut to the model's context."""

DECODE_TOKENS = 32
"""Tokens written per round of the speed measurement."""

ROUNDS = 5
"""Rounds of the speed measurement; in each, every model takes its turn."""

BUDGET_S = 40.0
"""No further round of the speed measurement begins after so many seconds; two are always timed."""


@torch.no_grad()
def greedy(model: Any, tokenizer: Any, prompt: str, *, max_new_tokens: int) -> str:
    """The most likely continuation, token by token, without the prompt; stops at the end-of-sequence token.

    Whatever sampling, penalties or lengths the model's own generation settings ask for is set aside, so that every
    model is asked in the same way.

    Raises:
        ValueError: an empty prompt (nothing to condition on) or ``max_new_tokens`` below 1.
    """
    from transformers import GenerationConfig

    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens must be at least 1, got {max_new_tokens}")
    inputs = tokenizer(prompt, return_tensors="pt", return_token_type_ids=False)
    if inputs["input_ids"].shape[1] == 0:
        raise ValueError(f"prompt {prompt!r} has no tokens: a continuation needs at least one (report.prompts)")
    end = tokenizer.eos_token_id
    make_settings: Any = GenerationConfig
    settings = make_settings(
        do_sample=False,
        max_new_tokens=max_new_tokens,
        eos_token_id=end,
        pad_token_id=tokenizer.pad_token_id if tokenizer.pad_token_id is not None else end,
        use_cache=True,
    )
    own, model.generation_config = model.generation_config, settings
    try:
        output_BT = model.generate(**{name: value.to(model.device) for name, value in inputs.items()})
    finally:
        model.generation_config = own
    written = output_BT[0, inputs["input_ids"].shape[1] :]
    return str(tokenizer.decode(written, skip_special_tokens=True, clean_up_tokenization_spaces=False))


@dataclass(frozen=True)
class Speed:
    """Tokens per second of one model: median over the timed rounds with the slowest and the fastest of them."""

    rounds: int
    prefill_tokens_per_s: float
    prefill_range: tuple[float, float]
    decode_tokens_per_s: float
    decode_range: tuple[float, float]


@torch.no_grad()
def speeds(
    models: Mapping[str, Any],
    *,
    prefill_tokens: int = PREFILL_TOKENS,
    decode_tokens: int = DECODE_TOKENS,
    rounds: int = ROUNDS,
    budget_s: float = BUDGET_S,
) -> dict[str, Speed]:
    """Time reading (prefill) and greedy writing with a key-value cache, batch of one, models interleaved.

    Every round lets each model read ``prefill_tokens`` tokens, then write ``decode_tokens`` more one by one, so a
    machine that slows down slows all of them. One untimed round comes first. Token ids have no influence on the time;
    those of prompts are 0, 1, 2, ...

    Args:
        models: causal language models in eval mode, by name.
        rounds: timed rounds at most, at least 1.
        budget_s: after so many seconds no further round begins, once two were timed.

    Raises:
        ValueError: a length or number of rounds below 1.
    """
    for name, value in (("prefill_tokens", prefill_tokens), ("decode_tokens", decode_tokens), ("rounds", rounds)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    prefill: dict[str, list[float]] = {name: [] for name in models}
    decode: dict[str, list[float]] = {name: [] for name in models}
    started_s = time.monotonic()
    for round_ in range(rounds + 1):
        if round_ > 2 and time.monotonic() - started_s > budget_s:
            break
        for name, model in models.items():
            read_s, write_s = one_round(model, prefill_tokens, decode_tokens)
            if round_ > 0:
                prefill[name].append(prefill_tokens / read_s)
                decode[name].append(decode_tokens / write_s)
    return {
        name: Speed(
            len(prefill[name]),
            statistics.median(prefill[name]),
            (min(prefill[name]), max(prefill[name])),
            statistics.median(decode[name]),
            (min(decode[name]), max(decode[name])),
        )
        for name in models
    }


@torch.no_grad()
def one_round(model: Any, prefill_tokens: int, decode_tokens: int) -> tuple[float, float]:
    """Seconds to read a prompt of so many tokens, and to write so many after it, greedily, one sequence."""
    device = model.device
    ids_BT = (torch.arange(prefill_tokens, device=device) % int(model.config.vocab_size))[None]
    _wait(device)
    started_s = time.perf_counter()
    output = model(input_ids=ids_BT, use_cache=True, logits_to_keep=1)
    next_B1 = _argmax(output.logits)
    _wait(device)
    read_s = time.perf_counter()
    for _ in range(decode_tokens):
        output = model(input_ids=next_B1, past_key_values=output.past_key_values, use_cache=True, logits_to_keep=1)
        next_B1 = _argmax(output.logits)
    _wait(device)
    return read_s - started_s, time.perf_counter() - read_s


def _argmax(logits_BTV: Tensor) -> Tensor:
    return logits_BTV[:, -1].argmax(dim=1, keepdim=True)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def samples(
    models: Mapping[str, tuple[Any, Any]], prompts: Sequence[str], *, max_new_tokens: int
) -> list[dict[str, Any]]:
    """Greedy continuations of every prompt by every ``name: (model, tokenizer)``, for side by side reading."""
    return [
        {
            "prompt": prompt,
            "outputs": {
                name: greedy(model, tokenizer, prompt, max_new_tokens=max_new_tokens)
                for name, (model, tokenizer) in models.items()
            },
        }
        for prompt in prompts
    ]
