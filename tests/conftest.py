"""Fixtures shared by all rooms: a tiny random Llama and a tiny byte-level tokenizer, both made in memory."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM

REPOSITORY = Path(__file__).resolve().parent.parent

SENTENCES = (
    "The state of the union is strong, and the people of the union are the reason for its strength.",
    "We meet today to speak of the work that is done and the work that remains to be done.",
    "No nation has ever spent its way to peace; none has ever hoped its way to bread.",
    "Let us look to the future with hope, with courage and with a plain account of what it costs.",
    "A student learns from a teacher's doubts as well as from a teacher's answers.",
    "In 1837 the treasury held 42,468,859 dollars; in 1838 it held less than 6,500,000.",
    "Größe, naïve café, 日本語 and an emoji 🙂 must survive the round trip.",
)
"""Text the tiny tokenizer is trained on; also handy as data."""


def make_tiny_llama(*, vocab_size: int = 97, seed: int = 0, **changes: object) -> LlamaForCausalLM:
    """A random fp32 LlamaForCausalLM: hidden 32, 2 layers, 4 heads, 2 key-value heads, context 256."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    options: dict[str, object] = {
        "vocab_size": vocab_size,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "initializer_range": 0.2,
        "tie_word_embeddings": False,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    options.update(changes)
    config = LlamaConfig(**options)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config).float().eval()


@pytest.fixture(scope="session")
def repository() -> Path:
    """Root of the repository."""
    return REPOSITORY


@pytest.fixture(scope="session")
def tiny_llama() -> LlamaForCausalLM:
    """A random fp32 Llama: V = 97, D = 32, 2 layers. Shared by the session: copy it before changing it."""
    return make_tiny_llama()


@pytest.fixture(scope="session")
def tiny_tokenizer_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of a byte-level BPE tokenizer: `<pad>` 0, `<bos>` 1, `<eos>` 2, 320 tokens, context 256."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<pad>", "<bos>", "<eos>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        model_max_length=256,
        model_input_names=["input_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,
    )
    directory = tmp_path_factory.mktemp("tiny-tokenizer")
    fast.save_pretrained(directory)
    return directory


@pytest.fixture(scope="session")
def tiny_model_dir(tiny_tokenizer_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of a random Llama whose vocabulary is that of `tiny_tokenizer_dir`, saved with the tokenizer."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_tokenizer_dir)
    directory = tmp_path_factory.mktemp("tiny-model")
    make_tiny_llama(vocab_size=len(tokenizer)).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A test that skips itself has failed: it must run, or be left out by its marker.

    Excepted: tests marked `gpu`, and conformance checks, which say why they do not apply to a component.
    """
    report = yield
    excepted = item.get_closest_marker("gpu") or "conformance_case" in getattr(item, "fixturenames", ())
    if report.skipped and not hasattr(report, "wasxfail") and not excepted:
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} skipped itself: {reason.removeprefix('Skipped: ')}"
    return report
