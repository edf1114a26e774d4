"""The identity of a vocabulary: which token each id stands for and how text becomes ids. Standard library only."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class VocabularyInfo:
    """A tokenizer as far as targets are concerned.

    Args:
        size: effective vocabulary, ``len(tokenizer)``.
        fingerprint: hash of vocabulary, merges, normaliser and special ids, equal across processes.
        name: where it came from, for messages.
    """

    size: int
    fingerprint: str
    name: str = ""


def vocabulary_info(tokenizer: Any) -> VocabularyInfo:
    """Size and fingerprint of a tokenizer.

    The fingerprint covers the vocabulary (token and id), merges, normaliser, pre-tokenizer, added tokens and special
    ids (but not the padding token, which reaches no target). It does not depend on the name or path, the chat
    template, the state of padding and truncation, or the process. Understands fast tokenizers (by their backend),
    SentencePiece ones (by the model's bytes) and anything with ``get_vocab()``.

    Args:
        tokenizer: a Transformers tokenizer, a ``tokenizers.Tokenizer``, or an object with ``get_vocab()``.

    Raises:
        TypeError: the object has no vocabulary that can be read.

    >>> class Letters:
    ...     def get_vocab(self):
    ...         return {"a": 0, "b": 1}
    >>> vocabulary_info(Letters()).size
    2
    """
    if not callable(getattr(tokenizer, "get_vocab", None)):
        raise TypeError(
            f"tokenizer is a {type(tokenizer).__name__} without get_vocab(): expected a Transformers tokenizer, a "
            "tokenizers.Tokenizer or an object with get_vocab() -> dict of token to id"
        )
    vocabulary = sorted((int(index), str(token)) for token, index in tokenizer.get_vocab().items())
    content = {
        "vocabulary": vocabulary,
        "model": _model(tokenizer),
        "special": _special_ids(tokenizer),
        "added": _added_tokens(tokenizer),
    }
    text = json.dumps(content, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    digest = hashlib.blake2b(text.encode("ascii"), digest_size=16).hexdigest()
    size = len(tokenizer) if hasattr(tokenizer, "__len__") else _backend_size(tokenizer, vocabulary)
    return VocabularyInfo(size=int(size), fingerprint=digest, name=str(getattr(tokenizer, "name_or_path", "") or ""))


def _backend_size(tokenizer: Any, vocabulary: list[tuple[int, str]]) -> int:
    get_size = getattr(tokenizer, "get_vocab_size", None)
    return int(get_size()) if callable(get_size) else len(vocabulary)


def _model(tokenizer: Any) -> Any:
    """How text becomes ids: the backend's description without state, or the SentencePiece model's hash."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None and callable(getattr(tokenizer, "to_str", None)):
        backend = tokenizer
    if backend is not None:
        description = json.loads(backend.to_str())
        # The rest is state (padding, truncation), reaches no target (decoder, template) or is read by _added_tokens.
        kept = {part: description.get(part) for part in ("model", "normalizer", "pre_tokenizer")}
        if isinstance(kept["model"], dict) and isinstance(kept["model"].get("vocab"), dict):
            del kept["model"]["vocab"]  # token to id, as get_vocab() gives it
        return kept
    return _sentencepiece(tokenizer)


def _sentencepiece(tokenizer: Any) -> Any:
    processor = getattr(tokenizer, "sp_model", None)
    serialized = getattr(processor, "serialized_model_proto", None)
    if callable(serialized):
        return {"sentencepiece": hashlib.sha256(serialized()).hexdigest()}
    vocabulary_file = getattr(tokenizer, "vocab_file", None)
    if vocabulary_file and Path(vocabulary_file).is_file():
        return {"file": hashlib.sha256(Path(vocabulary_file).read_bytes()).hexdigest()}
    return None


def _special_ids(tokenizer: Any) -> dict[str, Any]:
    names = ("bos", "eos", "unk", "sep", "cls", "mask")
    return {name: getattr(tokenizer, f"{name}_token_id", None) for name in names}


def _added_tokens(tokenizer: Any) -> list[Any]:
    decoder = getattr(tokenizer, "added_tokens_decoder", None)
    if decoder is None and callable(getattr(tokenizer, "get_added_tokens_decoder", None)):
        decoder = tokenizer.get_added_tokens_decoder()
    flags = ("special", "lstrip", "rstrip", "normalized", "single_word")
    return [
        [int(index), str(getattr(token, "content", token)), [bool(getattr(token, flag, False)) for flag in flags]]
        for index, token in sorted((decoder or {}).items())
    ]


def classes_info(labels: Sequence[str], tokenizer: Any = None, *, name: str = "") -> VocabularyInfo:
    """The vocabulary of a classifier: its labels in order, and the tokenizer that makes its input (None: no text).

    >>> classes_info(["cat", "dog"]).size
    2
    """
    reads = None if tokenizer is None else vocabulary_info(tokenizer).fingerprint
    text = json.dumps({"labels": list(labels), "reads": reads}, ensure_ascii=True)
    return VocabularyInfo(len(labels), hashlib.blake2b(text.encode("ascii"), digest_size=16).hexdigest(), name)
