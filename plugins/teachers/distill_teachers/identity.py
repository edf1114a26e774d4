"""Who a teacher is: a hash of its weights, equal on every machine.

Where the hub gives a commit, that is the identity; a directory is known by the content of its weight files.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from distill_core.errors import DistillError
from distill_teachers.gguf import file_sha256

WEIGHT_SUFFIXES = (".safetensors", ".bin", ".gguf")

_WHERE_FROM = ("_name_or_path", "transformers_version", "dtype", "torch_dtype", "architectures")
"""Fields of config.json that do not change what the model computes."""


def directory_identity(directory: Path) -> str:
    """``sha256:`` and a hash over the weight files and the configuration of a model directory.

    Raises:
        DistillError: the directory holds no weights.
    """
    weights = sorted(file for file in directory.iterdir() if file.suffix in WEIGHT_SUFFIXES)
    if not weights:
        raise DistillError(f"{directory} holds no weights ({', '.join(WEIGHT_SUFFIXES)}): give a whole model directory")
    state = hashlib.sha256()
    config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    state.update(_canonical(config))
    for file in weights:
        state.update(f"{file.name}:{file_sha256(file)}\n".encode())
    return f"sha256:{state.hexdigest()[:32]}"


def model_identity(model: Any) -> str:
    """``memory:`` and a hash over the tensors and the configuration of a model that was never saved."""
    import torch

    state = hashlib.sha256()
    state.update(_canonical(model.config.to_dict()))
    for name, tensor in sorted(model.state_dict().items()):
        content = tensor.detach().contiguous().cpu().reshape(-1).view(torch.uint8)
        state.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)}\n".encode())
        state.update(content.numpy().tobytes())
    return f"memory:{state.hexdigest()[:32]}"


def _canonical(config: dict[str, Any]) -> bytes:
    kept = {name: value for name, value in config.items() if name not in _WHERE_FROM}
    return json.dumps(kept, sort_keys=True, default=str).encode()
