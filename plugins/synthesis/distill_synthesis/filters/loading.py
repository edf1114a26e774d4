"""Models and tokenizers that filters load for themselves."""

from __future__ import annotations

from typing import Any

import torch

from distill_core.errors import DataError
from distill_synthesis.filters.model_options import ModelOptions


def load(options: ModelOptions, architecture: str, *, asks: str) -> tuple[Any, Any]:
    """A model in fp32 and eval mode, without gradients, and its tokenizer.

    Args:
        options: which, and where it runs.
        architecture: an auto class of Transformers: ``AutoModel``, ``AutoModelForCausalLM``.
        asks: the filter, for messages.

    Raises:
        DataError: it cannot be loaded.
    """
    import transformers

    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    auto = getattr(transformers, architecture)
    remote = options.trust_remote_code
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(options.model, trust_remote_code=remote)
        model = auto.from_pretrained(options.model, trust_remote_code=remote, dtype=torch.float32)
        model = model.to(device)
    except (OSError, ValueError, ImportError, RuntimeError, KeyError) as error:
        cause = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise DataError(
            f"{asks}: the model {options.model} cannot be loaded as {architecture} ({cause}): give a directory or a "
            "hub id with config.json, weights and tokenizer, and a device that is there"
        ) from error
    return model.eval().requires_grad_(False), tokenizer


def context_tokens(model: Any, wanted: int) -> int:
    """The length asked for, or the model's context where that is shorter."""
    longest = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return wanted if not isinstance(longest, int) or longest < 1 else min(wanted, longest)


def padded(rows: list[list[int]], device: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and attention mask [B, T], padded on the right with 0."""
    length = max(map(len, rows))
    ids_BT = torch.zeros(len(rows), length, dtype=torch.long)
    mask_BT = torch.zeros(len(rows), length, dtype=torch.long)
    for index, row in enumerate(rows):
        ids_BT[index, : len(row)] = torch.tensor(row, dtype=torch.long)
        mask_BT[index, : len(row)] = 1
    return ids_BT.to(device), mask_BT.to(device)
