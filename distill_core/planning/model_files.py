"""Sizes of a model from its files: a GGUF header, a Transformers directory, or a config; no weights are read.

Parameters are counted from tensor shapes in the headers of GGUF and safetensors files. Where there are no such files (a
hub id, a config alone), Transformers builds the model without memory for its weights (torch's meta device).
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distill_core.errors import DistillError
from distill_core.planning.gguf_header import gguf_shape
from distill_core.planning.shape import ModelShape, shape_of_config


def model_shape(source: str, *, label: str) -> ModelShape:
    """Sizes of a model.

    Args:
        source: a GGUF file, a directory of `save_pretrained`, or a hub id.
        label: ``student`` or ``teacher``, for messages.

    Raises:
        DistillError: it cannot be found or understood.
    """
    path = Path(source).expanduser()
    if path.is_file():
        return gguf_shape(path, label=label)
    if path.is_dir():
        try:
            config = json.loads((path / "config.json").read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise DistillError(f"--{label}: {path} holds no readable config.json: {error}") from None
        counted = safetensors_parameters(path)
        return config_shape(config, label=label) if counted is None else shape_of_config(config, counted, label=label)
    if source.startswith((".", "/", "~")) or source.endswith(".gguf") or source.count("/") > 1:
        raise DistillError(
            f"--{label}: there is no file or directory {path}; give a GGUF file, a model directory or a hub id"
        )
    from transformers import AutoConfig

    try:
        found = AutoConfig.from_pretrained(source)
    except (OSError, ValueError) as error:
        raise DistillError(f"--{label}: the config of {source} cannot be loaded: {error}") from error
    return config_shape(found.to_dict(), label=label)


def safetensors_parameters(directory: Path) -> int | None:
    """Parameters in the safetensors files of a directory, from their headers; None if there are none.

    Raises:
        DistillError: a damaged header.
    """
    files = sorted(directory.glob("*.safetensors"))
    if not files:
        return None
    total = 0
    for path in files:
        try:
            with open(path, "rb") as file:
                (length,) = struct.unpack("<Q", file.read(8))
                header = json.loads(file.read(length))
            total += sum(math.prod(entry["shape"]) for name, entry in header.items() if name != "__metadata__")
        except (OSError, ValueError, KeyError, TypeError, struct.error, MemoryError, OverflowError) as error:
            raise DistillError(f"{path} has a damaged safetensors header: {error}") from None
    return total


def config_shape(config: Mapping[str, Any], *, label: str) -> ModelShape:
    """Sizes of the model that a Transformers config describes, its parameters counted on torch's meta device.

    Raises:
        DistillError: Transformers makes no causal language model of it.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    given = dict(config)
    try:
        full = AutoConfig.for_model(given.pop("model_type"), **given)
        auto: Any = AutoModelForCausalLM
        with torch.device("meta"):
            model = auto.from_config(full)
    except (ValueError, TypeError, KeyError) as error:
        raise DistillError(f"the config of the {label} makes no causal language model: {error}") from error
    return shape_of_config(full.to_dict(), sum(p.numel() for p in model.parameters()), label=label)
