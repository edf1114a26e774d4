"""Where a Transformers teacher's weights are, and loading them onto a device.

Every failure names what was asked for and what to do.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from distill_core.errors import DistillError
from distill_teachers.gguf import convert_gguf, file_sha256
from distill_teachers.gguf_location import MissingAsset, cache_directory, locate_gguf
from distill_teachers.identity import directory_identity
from distill_teachers.options import HFOptions
from distill_teachers.thinned import thinned_directory


@dataclass(frozen=True)
class Weights:
    """A place ``from_pretrained`` can load from.

    Args:
        pretrained: directory or hub id.
        label: how messages call the teacher.
        revision: hub revision, None for a directory.
        content: identity known beforehand (a GGUF file's hash), else None.
    """

    pretrained: str
    label: str
    revision: str | None = None
    content: str | None = None

    @property
    def is_directory(self) -> bool:
        return Path(self.pretrained).is_dir()


def find_weights(options: HFOptions, dtype: torch.dtype) -> Weights:
    """Resolve the options to a place; converts a GGUF file, and thins a model to ``layers``, at the first call.

    Raises:
        MissingAsset: a package, file or directory is not there.
        TrainingError: a layer that does not exist.
    """
    whole = _find_whole(options, dtype)
    if options.layers is None:
        return whole
    identity = whole.content or (
        directory_identity(Path(whole.pretrained)) if whole.is_directory else f"{whole.pretrained}@{whole.revision}"
    )
    plain = options.model_copy(update={"quantization": None})
    directory = thinned_directory(
        f"{identity}:{dtype}",
        options.layers,
        cache=cache_directory(options.cache_dir),
        load=lambda: (load_model(whole, plain, torch.device("cpu"), dtype), load_tokenizer(whole, options)),
    )
    return Weights(pretrained=str(directory), label=f"{whole.label} ({len(options.layers)} layers)")


def _find_whole(options: HFOptions, dtype: torch.dtype) -> Weights:
    if options.model is None:
        path = locate_gguf(package=options.gguf_package, file=options.gguf_file)
        directory = convert_gguf(path, cache=cache_directory(options.cache_dir), dtype=str(dtype).split(".")[1])
        return Weights(pretrained=str(directory), label=path.name, content=f"gguf-sha256:{file_sha256(path)[:32]}")
    path = Path(options.model).expanduser()
    if path.is_dir():
        return Weights(pretrained=str(path), label=options.model)
    if options.model.startswith((".", "/", "~")):
        raise MissingAsset(f"teacher model: there is no directory {path}; give a directory or a hub id")
    return Weights(pretrained=options.model, label=options.model, revision=options.revision)


def choose_device(name: str) -> torch.device:
    """``auto``: the first GPU, else the CPU.

    Raises:
        DistillError: a device that torch does not know or this machine does not have.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise DistillError(f"teacher device {name!r} cannot be used here: {error}; use device: auto") from error
    return device


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """``auto``: bfloat16 on a GPU that has it, else float32 (float16 and bfloat16 are slow on a CPU)."""
    if name != "auto":
        dtype: torch.dtype = getattr(torch, name)
        return dtype
    fast = device.type == "cuda" and torch.cuda.is_bf16_supported()
    return torch.bfloat16 if fast else torch.float32


def load_model(weights: Weights, options: HFOptions, device: torch.device, dtype: torch.dtype) -> Any:
    """The model in eval mode, without gradients, on its device, quantised if asked for. Only safetensors are read.

    Raises:
        DistillError: it cannot be loaded; the message names the model and the reason.
    """
    from transformers import AutoModelForCausalLM

    try:
        model: Any = AutoModelForCausalLM.from_pretrained(
            weights.pretrained,
            revision=weights.revision or "main",
            dtype=dtype,
            trust_remote_code=options.trust_remote_code,
            cache_dir=None if weights.is_directory else options.cache_dir,
            use_safetensors=True,
            **_quantised(options.quantization, device, dtype),
        )
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise DistillError(f"the teacher {weights.label} cannot be loaded: {_first_line(error)}") from error
    model.requires_grad_(False)
    if getattr(model, "hf_quantizer", None) is None:  # quantised weights were placed as they were read
        model = model.to(device)
    return model.eval()


def _quantised(bits: str | None, device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """What ``from_pretrained`` is told to quantise the linear layers behind the embedding and before the head."""
    if bits is None:
        return {}
    from transformers import BitsAndBytesConfig

    four = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": dtype}
    config: Any = BitsAndBytesConfig(**(four if bits == "4bit" else {"load_in_8bit": True}))
    return {"quantization_config": config, "device_map": {"": device}}


def load_tokenizer(weights: Weights, options: HFOptions) -> Any:
    """The teacher's tokenizer.

    Raises:
        DistillError: there is none, or it cannot be read.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(
            weights.pretrained,
            revision=weights.revision or "main",
            trust_remote_code=options.trust_remote_code,
            cache_dir=None if weights.is_directory else options.cache_dir,
        )
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise DistillError(
            f"the tokenizer of the teacher {weights.label} cannot be loaded: {_first_line(error)}"
        ) from error


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
