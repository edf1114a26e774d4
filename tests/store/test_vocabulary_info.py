"""The fingerprint changes with what an id means and with nothing else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from distill_core.store import VocabularyInfo, vocabulary_info


def load(directory: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(directory)


def changed(tokenizer: Any, edit: Any) -> Any:
    """A copy of a fast tokenizer whose backend description was edited."""
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    description = json.loads(tokenizer.backend_tokenizer.to_str())
    edit(description)
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(description)),
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
    )


def test_the_same_in_every_process(tiny_tokenizer_dir: Path) -> None:
    tokenizer = load(tiny_tokenizer_dir)
    info = vocabulary_info(tokenizer)
    assert info.size == 320 and len(info.fingerprint) == 32 and info.name == str(tiny_tokenizer_dir)
    code = (
        "import sys\nfrom tokenizers import Tokenizer\nfrom distill_core.store import vocabulary_info\n"
        "print(vocabulary_info(Tokenizer.from_file(sys.argv[1])).fingerprint)"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code, str(tiny_tokenizer_dir / "tokenizer.json")],
        env={**os.environ, "PYTHONHASHSEED": "77"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert answer.stdout.strip() == vocabulary_info(tokenizer.backend_tokenizer).fingerprint


def test_state_and_names_play_no_part(tiny_tokenizer_dir: Path, tmp_path: Path) -> None:
    tokenizer = load(tiny_tokenizer_dir)
    before = vocabulary_info(tokenizer).fingerprint
    tokenizer.chat_template = "{{ messages }}"
    tokenizer.padding_side = "left"
    tokenizer.model_max_length = 7
    tokenizer(["a", "a longer text"], padding=True, truncation=True, max_length=5)
    tokenizer.backend_tokenizer.enable_padding(length=9)
    tokenizer.pad_token = "<eos>"
    assert vocabulary_info(tokenizer).fingerprint == before
    tokenizer.save_pretrained(tmp_path / "elsewhere")
    assert vocabulary_info(load(tmp_path / "elsewhere")).fingerprint == before


def swap(description: dict) -> None:
    vocabulary = description["model"]["vocab"]
    a, b = sorted(vocabulary, key=vocabulary.get)[-2:]
    vocabulary[a], vocabulary[b] = vocabulary[b], vocabulary[a]


EDITS = {
    "two ids swapped": swap,
    "merge order": lambda d: d["model"]["merges"].reverse(),
    "normaliser": lambda d: d.update(normalizer={"type": "Lowercase"}),
    "pre-tokenizer": lambda d: d["pre_tokenizer"].update(add_prefix_space=True),
}


@pytest.mark.parametrize("name", EDITS)
def test_meaning_plays_a_part(tiny_tokenizer_dir: Path, name: str) -> None:
    tokenizer = load(tiny_tokenizer_dir)
    untouched = changed(tokenizer, lambda description: None)
    other = vocabulary_info(changed(tokenizer, EDITS[name]))
    assert other.size == 320
    assert vocabulary_info(untouched).fingerprint == vocabulary_info(tokenizer).fingerprint != other.fingerprint


def test_added_tokens_and_special_ids(tiny_tokenizer_dir: Path) -> None:
    tokenizer = load(tiny_tokenizer_dir)
    before = vocabulary_info(tokenizer)
    tokenizer.eos_token = "<bos>"
    assert vocabulary_info(tokenizer).fingerprint != before.fingerprint
    tokenizer.eos_token = "<eos>"
    assert vocabulary_info(tokenizer).fingerprint == before.fingerprint
    tokenizer.add_tokens(["<thought>"])
    after = vocabulary_info(tokenizer)
    assert after.size == 321 and after.fingerprint != before.fingerprint


class Words:
    """A tokenizer that is a dictionary, as a domain-specific one may be."""

    def __init__(self, words: dict[str, int], model: bytes | None = None) -> None:
        self.words = words
        if model is not None:
            self.sp_model = type("Processor", (), {"serialized_model_proto": lambda self: model})()

    def get_vocab(self) -> dict[str, int]:
        return self.words


def test_anything_with_a_vocabulary() -> None:
    words = {"a": 0, "b": 1, "c": 2}
    info = vocabulary_info(Words(words))
    assert isinstance(info, VocabularyInfo) and info.size == 3 and info.name == ""
    assert vocabulary_info(Words(dict(reversed(words.items())))).fingerprint == info.fingerprint
    assert vocabulary_info(Words({"a": 1, "b": 0, "c": 2})).fingerprint != info.fingerprint
    with pytest.raises(TypeError, match="get_vocab"):
        vocabulary_info(object())


def test_sentencepiece_model_plays_a_part() -> None:
    words = {"a": 0, "b": 1}
    prints = {vocabulary_info(Words(words, model)).fingerprint for model in (None, b"model", b"other model")}
    assert len(prints) == 3


def test_raw_backend(tiny_tokenizer_dir: Path) -> None:
    info = vocabulary_info(load(tiny_tokenizer_dir).backend_tokenizer)
    assert info.size == 320
