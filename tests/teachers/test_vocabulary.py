"""Vocabulary policy: one tokenizer with heads of other sizes works, a different tokenizer is refused in a sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from distill_core import ops
from distill_core.config import CaptureConfig
from distill_core.engine.capture import capture
from distill_core.engine.data import collate
from distill_core.engine.stored import StoredSignals
from distill_core.engine.vocabulary import agree_on_vocabulary, with_vocabulary
from distill_core.errors import VocabularyError
from distill_core.interfaces import VocabularyInfo
from distill_core.types import SparseSpec
from distill_teachers.hf import HFTeacher
from tests.conftest import make_tiny_llama
from tests.teachers.conftest import TARGETS, random_sequences, sequence

TOKENS, TEACHER_ROWS, STUDENT_ROWS = 151_700, 151_936, 152_064
"""The sizes of a well-known family: one tokenizer, heads padded differently."""


def big_tokenizer(order: int = 0) -> Any:
    """A byte-pair tokenizer of 151,700 tokens; ``order`` permutes two of them."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    letters = [chr(0x100 + i) for i in range(390)]
    vocabulary = {"<pad>": 0, **{letter: i + 1 for i, letter in enumerate(letters)}}
    merges = []
    for first in letters:
        for second in letters:
            if len(vocabulary) == TOKENS:
                break
            merges.append((first, second))
            vocabulary[first + second] = len(vocabulary)
    if order:
        one, two = letters[5] + letters[6], letters[7] + letters[8]
        vocabulary[one], vocabulary[two] = vocabulary[two], vocabulary[one]
    model = models.BPE(vocab=vocabulary, merges=merges)
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(model), pad_token="<pad>")


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return big_tokenizer()


def tiny_width(rows: int, seed: int) -> Any:
    return make_tiny_llama(
        vocab_size=rows, seed=seed, hidden_size=8, intermediate_size=8, num_attention_heads=1, num_key_value_heads=1
    )


def test_heads_of_other_sizes_with_one_tokenizer(tokenizer: Any, tmp_path: Path) -> None:
    """151,936 against 152,064 rows (TRL's GKD crashes here): live and stored, and the sentence says what was done."""
    assert len(tokenizer) == TOKENS
    teacher = HFTeacher.from_model(tiny_width(TEACHER_ROWS, 1), tokenizer, label="qwen-like teacher")
    student = tiny_width(STUDENT_ROWS, 2)
    live, sentence = with_vocabulary(teacher, tokenizer, student_rows=STUDENT_ROWS)
    assert live is teacher
    assert "share one tokenizer of 151,700 tokens" in sentence
    assert "364 padding rows of the student's head stay in its tail" in sentence
    sequences = [sequence(np.arange(3, 20) * 7_900), sequence([TOKENS - 1, 5, TOKENS - 2, 9])]
    capture(teacher, sequences, CaptureConfig(method="topk", k=6), tmp_path)
    stored, sentence_of_store = with_vocabulary(StoredSignals(tmp_path), tokenizer, student_rows=STUDENT_ROWS)
    assert sentence_of_store == sentence
    batch = collate(sequences)
    rows = batch.rows()
    with torch.no_grad():
        teacher_NV = rows.select(teacher.model(batch.input_ids_BT).logits).double()[:, :TOKENS]
        hidden_ND = rows.select(student.model(batch.input_ids_BT).last_hidden_state)
        student_NV = rows.select(student(batch.input_ids_BT).logits).double()
    p_NV, logq_NV = torch.softmax(teacher_NV, 1), torch.log_softmax(student_NV, 1)
    for one, error in ((live, 2e-5), (stored, 0.02)):
        target = one.signals(batch, TARGETS, SparseSpec("topk", 6)).target
        assert target is not None and int(target.ids_NK.max()) < TOKENS
        support = ops.linear_support_logits(hidden_ND, student.lm_head.weight, target.ids_NK)
        # Teacher: over 151,700 tokens. Student: over all of its 152,064 rows, the padding rows in the tail.
        expected_p = p_NV.gather(1, target.ids_NK)
        expected_q = logq_NV.gather(1, target.ids_NK)
        found_p, found_q = target.log_probs(), support.log_probs()
        torch.testing.assert_close(found_p[:, :-1].double(), expected_p.log(), rtol=0, atol=error)
        torch.testing.assert_close(found_p[:, -1].exp().double(), 1 - expected_p.sum(1), rtol=0, atol=error)
        torch.testing.assert_close(found_q[:, :-1].double(), expected_q, rtol=0, atol=2e-5)
        torch.testing.assert_close(found_q[:, -1].exp().double(), 1 - expected_q.exp().sum(1), rtol=0, atol=2e-5)


def test_another_tokenizer_of_the_same_size_is_refused(tokenizer: Any) -> None:
    other = big_tokenizer(order=1)
    assert len(other) == len(tokenizer) == TOKENS
    teacher = HFTeacher.from_model(tiny_width(TEACHER_ROWS, 1), other, label="other teacher")
    theirs, ours = teacher.vocabulary().fingerprint[:8], None
    with pytest.raises(VocabularyError) as caught:
        with_vocabulary(teacher, tokenizer, student_rows=STUDENT_ROWS)
    message = str(caught.value)
    from distill_core.store import vocabulary_info

    ours = vocabulary_info(tokenizer).fingerprint[:8]
    assert theirs != ours
    for part in ("different tokenizers", "other teacher", "151,700 tokens", theirs, ours, "student.tokenizer"):
        assert part in message
    assert "name an aligner" in message


def test_truncate_drops_what_is_not_common(tiny_teacher: HFTeacher, tiny_tokenizer: Any) -> None:
    """The student lacks the last 40 tokens: they leave the support, the rest is renormalised; never zeros as logits."""
    tokens = tiny_tokenizer.get_vocab()
    kept = len(tiny_tokenizer) - 40
    student = Shortened({text: index for text, index in tokens.items() if index < kept})
    teacher, sentence = with_vocabulary(tiny_teacher, student, student_rows=kept + 3, policy="truncate")
    assert (
        f"{kept:,} tokens that have the same text and id" in sentence and "40 of the teacher's are left out" in sentence
    )
    assert teacher.identity() == tiny_teacher.identity()
    assert teacher.vocabulary().size == kept
    assert teacher.model is tiny_teacher.model  # type: ignore[attr-defined]
    batch = collate(random_sequences(3, vocabulary=kept))
    k = 30
    target = teacher.signals(batch, TARGETS, SparseSpec("topk", k)).target
    full = tiny_teacher.signals(batch, TARGETS, SparseSpec("topk", k)).target
    assert target is not None and full is not None
    foreign_NK = full.ids_NK >= kept
    assert 0 < int(foreign_NK.sum()) < foreign_NK.numel()
    assert torch.equal(target.ids_NK, full.ids_NK.masked_fill(foreign_NK, -1))
    p_NK1 = full.log_probs().exp()
    p_NK1[:, :-1][foreign_NK] = 0.0
    expected_NK1 = p_NK1 / p_NK1.sum(1, keepdim=True)
    torch.testing.assert_close(target.log_probs().exp(), expected_NK1, rtol=1e-5, atol=1e-7)
    with pytest.raises(VocabularyError, match="exact targets"):
        teacher.signals(batch, TARGETS, SparseSpec("threshold", 5))
    with pytest.raises(VocabularyError, match=f"stand for other text.*{kept + 1}"):
        teacher.signals(collate([sequence([5, kept + 1, 6])]), TARGETS, SparseSpec("topk", k))


def test_truncate_needs_tokens_on_both_sides(tiny_teacher: HFTeacher, tiny_tokenizer: Any, tmp_path: Path) -> None:
    student = Shortened({text: index for text, index in tiny_tokenizer.get_vocab().items() if index < 200})
    capture(tiny_teacher, random_sequences(2, vocabulary=200), CaptureConfig(method="topk", k=30), tmp_path)
    stored = StoredSignals(tmp_path)
    with pytest.raises(VocabularyError, match="a store keeps a fingerprint alone"):
        with_vocabulary(stored, student, student_rows=200, policy="truncate")
    teacher, _ = with_vocabulary(stored, student, student_rows=200, policy="truncate", teacher_tokenizer=tiny_tokenizer)
    target = teacher.signals(collate(random_sequences(2, vocabulary=200)), TARGETS).target
    assert target is not None and int(target.ids_NK.max()) < 200
    with pytest.raises(VocabularyError, match="no token has the same text and id"):
        with_vocabulary(tiny_teacher, Shortened({"zz": 0}), student_rows=1, policy="truncate")


def test_a_head_smaller_than_its_tokenizer_is_refused() -> None:
    info = VocabularyInfo(100, "f" * 32, "some tokenizer")
    with pytest.raises(VocabularyError, match=r"99 rows.*some tokenizer.*100 tokens.*resize"):
        agree_on_vocabulary(info, info, student_rows=99)
    assert agree_on_vocabulary(info, info, student_rows=100).sentence.endswith("100 tokens (ffffffff)")


class Shortened:
    """A tokenizer that is its vocabulary."""

    def __init__(self, tokens: dict[str, int]) -> None:
        self.tokens = tokens

    def __len__(self) -> int:
        return len(self.tokens)

    def get_vocab(self) -> dict[str, int]:
        return self.tokens
