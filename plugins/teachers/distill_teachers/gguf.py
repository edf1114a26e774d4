"""A GGUF file converted once into a plain Transformers directory in the cache.

Loading a GGUF file takes tens of seconds and marks the model as quantised, so that it cannot be saved. The weights are
therefore copied into a fresh model of the same configuration (without ``quantization_config``), tied, and saved as
safetensors together with the tokenizer that the file carries. The next load takes seconds.
"""

from __future__ import annotations

import copy
import functools
import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path

from distill_core.errors import DistillError

CONVERSION = 1
"""Version of the conversion; part of the cache key."""

PROVENANCE = "converted_from.json"


@functools.lru_cache(maxsize=16)
def _sha256(path: str, size_bytes: int, modified_ns: int) -> str:
    state = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            state.update(block)
    return state.hexdigest()


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's content, hexadecimal; remembered while size and modification time stay."""
    stat = path.stat()
    return _sha256(str(path), stat.st_size, stat.st_mtime_ns)


def convert_gguf(path: Path, *, cache: Path, dtype: str = "float32") -> Path:
    """The Transformers directory of a GGUF file, made at the first call.

    Args:
        path: the GGUF file.
        cache: cache directory; the key is the SHA-256 of the file, the dtype and the version of the conversion.
        dtype: dtype of the saved weights, ``float32``, ``bfloat16`` or ``float16``.

    Raises:
        DistillError: the file is no GGUF file, or of an architecture Transformers cannot read.
    """
    digest = file_sha256(path)
    target = cache / "gguf" / f"{digest[:32]}-{dtype}-v{CONVERSION}"
    if (target / PROVENANCE).is_file():
        return target
    with open(path, "rb") as file:
        if file.read(4) != b"GGUF":
            raise DistillError(f"{path} is not a GGUF file: it does not start with the four bytes 'GGUF'")
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        _convert_into(path, unfinished, dtype)
        provenance = {"file": path.name, "sha256": digest, "dtype": dtype, "conversion": CONVERSION}
        (unfinished / PROVENANCE).write_text(json.dumps(provenance, indent=2) + "\n")
        _move_into_place(unfinished, target)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return target


def _convert_into(path: Path, directory: Path, dtype: str) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(path.parent), gguf_file=path.name)
        loaded = AutoModelForCausalLM.from_pretrained(str(path.parent), gguf_file=path.name, dtype=torch.float32)
    except ImportError as error:
        raise DistillError(f"reading {path.name} needs the package gguf. Install it with: pip install gguf") from error
    except (ValueError, KeyError, NotImplementedError, OSError) as error:
        raise DistillError(f"Transformers cannot read the GGUF file {path}: {error}") from error
    config = copy.deepcopy(loaded.config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    config.dtype = getattr(torch, dtype)
    with torch.device("meta"):
        plain = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
    plain.load_state_dict(loaded.state_dict(), assign=True)
    plain.tie_weights()
    plain.to(dtype=config.dtype)
    plain.generation_config = loaded.generation_config
    plain.save_pretrained(directory, safe_serialization=True)
    tokenizer.save_pretrained(directory)


def _move_into_place(unfinished: Path, target: Path) -> None:
    """Flush every file, then rename; whoever comes second finds the directory there and keeps it."""
    for file in sorted(unfinished.rglob("*")):
        if file.is_file():
            with open(file, "rb") as handle:
                os.fsync(handle.fileno())
    unfinished.chmod(0o755)
    try:
        os.rename(unfinished, target)
    except OSError:
        if not (target / PROVENANCE).is_file():
            raise
