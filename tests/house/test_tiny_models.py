"""The shared tiny models are what their descriptions say."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM


def test_tiny_llama_has_the_documented_size(tiny_llama: LlamaForCausalLM) -> None:
    assert tiny_llama.lm_head.weight.shape == (97, 32)
    assert tiny_llama.config.num_hidden_layers == 2
    assert tiny_llama.dtype == torch.float32
    logits = tiny_llama(input_ids=torch.tensor([[5, 6, 7]])).logits
    assert logits.shape == (1, 3, 97)
    assert logits.std() > 0.05, "logits so flat that they would hide errors"


def test_tiny_tokenizer_survives_a_round_trip(tiny_tokenizer_dir: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_tokenizer_dir)
    assert len(tokenizer) == 320
    assert (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id) == (0, 1, 2)
    text = "Größe: the union's <work> 🙂 costs 1,234\n\tdollars"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_tiny_model_fits_its_tokenizer(tiny_model_dir: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    assert model.config.vocab_size == len(tokenizer)
    logits = model(**tokenizer("the state of the union", return_tensors="pt")).logits
    assert logits.isfinite().all()
