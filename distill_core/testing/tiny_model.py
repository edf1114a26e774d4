"""A random two-layer Llama and a byte-level tokenizer, made in memory, for checks that need a real model."""

from __future__ import annotations

from typing import Any

import torch

from distill_core.types import TokenBatch

SENTENCES = (
    "The state of the union is strong.",
    "A student learns from a teacher's doubts.",
    "日本語 and an emoji 🙂.",
)


def tiny_tokenizer() -> Any:
    """A byte-level tokenizer with `<pad>`, `<bos>`, `<eos>` and every byte."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<pad>", "<bos>", "<eos>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    make: Any = PreTrainedTokenizerFast
    return make(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>", model_max_length=64
    )


def tiny_model(vocabulary: int, *, seed: int = 0) -> Any:
    """A random fp32 Llama in eval mode."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=64,
        initializer_range=0.3,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: Any = LlamaForCausalLM(config)
    return model.float().eval()


def token_batch(tokenizer: Any, texts: tuple[str, ...] = SENTENCES) -> TokenBatch:
    """The texts as a padded batch, one document each."""
    from distill_core.store import sequence_key

    rows = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    length = max(map(len, rows))
    input_ids_BT = torch.tensor([row + [0] * (length - len(row)) for row in rows])
    mask_BT = torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in rows])
    return TokenBatch(
        input_ids_BT=input_ids_BT,
        attention_mask_BT=mask_BT,
        labels_BT=input_ids_BT.masked_fill(mask_BT == 0, -100),
        keys=tuple(sequence_key(row) for row in rows),
        documents=tuple(f"document-{index}" for index in range(len(rows))),
    )
