"""The header of a GGUF file: its metadata and the shapes of its tensors, read without a package and without weights.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, versions 2 and 3, little-endian.
"""

from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import Any, BinaryIO

from distill_core.errors import DistillError
from distill_core.planning.shape import ModelShape

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9


def read_gguf_header(path: Path) -> tuple[dict[str, Any], dict[str, tuple[int, ...]]]:
    """Metadata (arrays as their length) and tensor shapes, fastest dimension first.

    Raises:
        DistillError: it is no such file.
    """
    try:
        with open(path, "rb") as file:
            if file.read(4) != b"GGUF":
                raise DistillError(f"{path} is not a GGUF file: it does not start with the four bytes 'GGUF'")
            version, n_tensors, n_values = _unpack(file, "<IQQ")
            if version not in (2, 3):
                raise DistillError(f"{path} is a GGUF file of version {version}: 2 and 3 can be read")
            values = {_text(file): _value(file, _unpack(file, "<I")[0]) for _ in range(n_values)}
            tensors = {}
            for _ in range(n_tensors):
                name = _text(file)
                (n_dimensions,) = _unpack(file, "<I")
                tensors[name] = _unpack(file, f"<{n_dimensions}Q")
                _unpack(file, "<IQ")
    except (struct.error, KeyError, UnicodeDecodeError, OverflowError, MemoryError) as error:
        raise DistillError(f"{path} has a damaged GGUF header: {error}") from error
    return values, tensors


def gguf_shape(path: Path, *, label: str) -> ModelShape:
    """The sizes of the model in a GGUF file; the parameters are counted from the tensors themselves.

    Raises:
        DistillError: no GGUF file of a decoder-only transformer.
    """
    values, tensors = read_gguf_header(path)
    architecture = values.get("general.architecture", "")
    try:
        hidden, vocabulary = tensors["token_embd.weight"]
        layers = values[f"{architecture}.block_count"]
        heads = values[f"{architecture}.attention.head_count"]
        feed_forward = values[f"{architecture}.feed_forward_length"]
    except (KeyError, ValueError) as error:
        raise DistillError(
            f"{path} holds a model of architecture {architecture!r} whose header lacks {error}: give "
            f"--{label}-parameters, --hidden and --layers instead of the model"
        ) from None
    tied = "output.weight" not in tensors
    parameters = sum(math.prod(shape) for name, shape in tensors.items() if not name.startswith("rope_"))
    width = values.get(f"{architecture}.attention.key_length", hidden // heads)
    key_value_heads = values.get(f"{architecture}.attention.head_count_kv", heads)
    return ModelShape(
        body=parameters - vocabulary * hidden * (1 if tied else 2),
        hidden=hidden,
        layers=layers,
        attention=heads * width,
        key_value=key_value_heads * width,
        feed_forward=feed_forward,
        vocabulary=vocabulary,
        tied=tied,
    )


def _unpack(file: BinaryIO, form: str) -> tuple[Any, ...]:
    return struct.unpack(form, file.read(struct.calcsize(form)))


def _text(file: BinaryIO) -> str:
    (length,) = _unpack(file, "<Q")
    found = file.read(length)
    if len(found) != length:
        raise struct.error("the file ends inside a text")
    return found.decode("utf-8", errors="replace")


def _value(file: BinaryIO, kind: int) -> Any:
    if kind == _STRING:
        return _text(file)
    if kind != _ARRAY:
        return _unpack(file, f"<{_SCALARS[kind]}")[0]
    inner, length = _unpack(file, "<IQ")
    if inner in _SCALARS:
        file.seek(length * struct.calcsize(_SCALARS[inner]), 1)
    else:
        for _ in range(length):
            _value(file, inner)
    return length
