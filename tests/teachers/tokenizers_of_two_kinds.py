"""Small tokenizers of the two conventions: byte-level (``Ġ``) and SentencePiece (``▁``, bytes spelled out)."""

from __future__ import annotations

import json
from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from tests.conftest import SENTENCES

BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


def byte_level(size: int = 400, **special: str) -> Any:
    """GPT-2's kind: every byte a letter, no token put before a text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=["<pad>", "<|start|>", "<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<|start|>", eos_token="<|end|>", **special
    )


def sentencepiece(size: int = 500, *, opens: bool = True, normalizer: Any = None) -> Any:
    """Llama 2's kind: ``▁`` before words and text, unknown characters as bytes, ``<s>`` first."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first", split=True)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=["<unk>", "<s>", "</s>", *BYTES], limit_alphabet=60, show_progress=False
    )
    tokenizer.train_from_iterator(SENTENCES[:6], trainer)
    plain = json.loads(tokenizer.to_str())
    plain["added_tokens"] = [one for one in plain["added_tokens"] if one["content"] not in BYTES]
    tokenizer = Tokenizer.from_str(json.dumps(plain))
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    if opens:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 1)]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<unk>"
    )


def nfkc() -> Any:
    """A normaliser that changes text: ½ becomes three characters, full-width letters become plain ones."""
    return normalizers.NFKC()
