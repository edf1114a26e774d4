"""Aligners: bytes of tokens, boundaries of two tokenizations, exact span probabilities, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from distill_core.config import CaptureConfig, ComponentRef
from distill_core.engine.capture import capture
from distill_core.engine.data import TokenSequence, collate
from distill_core.engine.stored import StoredSignals
from distill_core.engine.vocabulary import NamedAligner, chosen_policy, with_vocabulary
from distill_core.errors import SignalError, VocabularyError
from distill_core.registry import get_registry
from distill_core.store import sequence_key
from distill_core.types import Needs, SparseSpec, TeacherSignals, TokenBatch
from distill_teachers.aligners.byte_span import ByteSpan
from distill_teachers.aligners.options import ByteSpanOptions
from distill_teachers.aligners.reading import Reader
from distill_teachers.aligners.shared_vocabulary import SharedVocabulary
from distill_teachers.aligners.token_bytes import joined, token_bytes
from distill_teachers.hf import HFTeacher
from tests.conftest import make_tiny_llama
from tests.teachers.tokenizers_of_two_kinds import byte_level, nfkc, sentencepiece

TEXT = "The state 日本語 of the union 🙂 naïve café\n\nis  strong, <s> and 42,468,859 ½ dollars."
NEEDS = Needs(frozenset({"targets"}), ("exact",), (1.0,))
RANKED = Needs(frozenset({"targets", "ranked_log_probs"}), ("exact",), (1.0,))
K = 24

BYTE_LEVEL, SENTENCEPIECE = byte_level(), sentencepiece()
PAIRS = {"byte-level to sentencepiece": (BYTE_LEVEL, SENTENCEPIECE), "and back": (SENTENCEPIECE, BYTE_LEVEL)}


def encoded(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def batch_of(*sequences: list[int]) -> TokenBatch:
    import numpy as np

    arrays = [np.array(ids, dtype=np.int32) for ids in sequences]
    return collate([TokenSequence(a, a, f"d{i}", sequence_key(a)) for i, a in enumerate(arrays)])


def teacher_with(tokenizer: Any, seed: int = 3, **changes: Any) -> HFTeacher:
    model = make_tiny_llama(vocab_size=len(tokenizer), seed=seed, max_position_embeddings=1024, **changes)
    return HFTeacher.from_model(model, tokenizer, label="the other teacher")


def dense_logp(teacher: HFTeacher, ids: list[int]) -> torch.Tensor:
    """[T, V] float64 log-probabilities of what follows each token."""
    with torch.no_grad():
        return teacher.model(torch.tensor([ids])).logits[0].double().log_softmax(1)


def span_of(tokens: Any, ids: list[int]) -> bytes:
    return joined(tokens, ids)


# --- bytes of tokens ---------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=60))
def test_bytes_of_tokens_are_the_text(text: str) -> None:
    """Any Unicode: emoji, combining marks, control characters, things that look like special tokens."""
    for tokenizer in (BYTE_LEVEL, SENTENCEPIECE):
        found = token_bytes(tokenizer, "teacher")
        ids, _ = found.encode(text)
        assert joined(found, ids).removeprefix(b" ") == text.encode().removeprefix(b" ")


def test_two_spellings_of_a_byte_have_one_canonical_token() -> None:
    found = token_bytes(SENTENCEPIECE, "student")
    spelled, letter = (SENTENCEPIECE.convert_tokens_to_ids(token) for token in ("<0x61>", "a"))
    assert found.of_id[spelled] == found.of_id[letter] == b"a"
    assert found.canonical()[b"a"] == letter and found.canonical()[b"\n"] in found.spelled


# --- boundaries --------------------------------------------------------------------------------------------------


def check_reading(reader: Reader, student_ids: list[int]) -> None:
    """Whatever is said to be aligned is: same bytes before, and the span's tokens are the label's bytes.

    SentencePiece puts a space before every text: at the start, after a special token, and after what was cut there
    inside a character and is not read. Behind a special token the bytes before are compared without spaces.
    """
    reading, texts = reader.read(student_ids), reader.student.of_id
    for index, (first, count) in enumerate(zip(reading.first, reading.count, strict=True)):
        if first == 0:
            assert count == 0
            continue
        ours = b"".join(texts[i] or b"" for i in student_ids[:index])
        theirs = joined(reader.teacher, reading.teacher_ids[:first])
        if any(texts[i] is None for i in student_ids[:index]):
            ours, theirs = ours.replace(b" ", b""), theirs.replace(b" ", b"")
        assert ours.endswith(theirs.removeprefix(b" "))
        label = texts[student_ids[index]]
        if count and label is not None:
            value = joined(reader.teacher, reading.teacher_ids[first : first + count])
            assert value == label or (opens_a_text(index, reading.count, student_ids, texts) and value == b" " + label)


def opens_a_text(index: int, counts: list[int], student_ids: list[int], texts: Any) -> bool:
    """Whether no token before it, back to the start or to a special token, was read as text."""
    while index > 0 and texts[student_ids[index - 1]] is not None and counts[index - 1] == 0:
        index -= 1
    return index == 0 or texts[student_ids[index - 1]] is None


@settings(max_examples=80, deadline=None)
@given(st.text(max_size=50), st.integers(0, 6), st.integers(0, 6))
def test_alignment_of_any_text_cut_anywhere(text: str, before: int, after: int) -> None:
    """Cuts may fall inside a character on either side."""
    for teacher, student in PAIRS.values():
        ids = encoded(student, text)
        check_reading(Reader(teacher, student), ids[before : len(ids) - after])


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, len(BYTE_LEVEL) - 1), max_size=30))
def test_alignment_of_token_salad(ids: list[int]) -> None:
    """What a student may write: no UTF-8, special tokens anywhere."""
    check_reading(Reader(SENTENCEPIECE, BYTE_LEVEL), ids)


@pytest.mark.parametrize("pair", PAIRS)
def test_every_shared_boundary_is_found(pair: str) -> None:
    """Brute force: offsets of both tokenizations as sets of byte positions."""
    teacher, student = PAIRS[pair]
    reader = Reader(teacher, student)
    ids = encoded(student, TEXT)
    reading = reader.read(ids)
    ours, theirs = (
        [0, *torch.tensor([len(tokens.of_id[i] or b"") for i in some]).cumsum(0).tolist()]
        for tokens, some in ((reader.student, ids), (reader.teacher, reading.teacher_ids))
    )
    shift = ours[-1] - theirs[-1]
    starts = {offset + shift for offset in theirs[:-1]}
    for index, (first, count) in list(enumerate(zip(reading.first, reading.count, strict=True)))[1:]:  # 0 is no row
        assert (first > 0) == (ours[index] in starts)
        assert (count > 0) == (ours[index] in starts and ours[index + 1] in starts | {ours[-1]})
    assert max(reading.count) > 1 and 0 in reading.count[1:]


def test_bos_and_eos() -> None:
    """The teacher opens in its own way; EOS passes by its role; a token it has no counterpart for is left out."""
    ids = encoded(BYTE_LEVEL, "The state")
    start, end, pad = (BYTE_LEVEL.convert_tokens_to_ids(token) for token in ("<|start|>", "<|end|>", "<pad>"))
    reader = Reader(SENTENCEPIECE, BYTE_LEVEL)
    with_bos, without = reader.read([start, *ids, end]), reader.read([*ids, end])
    assert with_bos.teacher_ids == without.teacher_ids
    assert with_bos.teacher_ids[0] == SENTENCEPIECE.bos_token_id
    assert with_bos.teacher_ids[-1] == SENTENCEPIECE.eos_token_id
    assert with_bos.first[1:] == without.first and with_bos.count[-1] == 1
    assert with_bos.first[1] > 0  # BOS predicts the first token, and the teacher has an opening that does
    assert Reader(BYTE_LEVEL, SENTENCEPIECE).read([1, *encoded(SENTENCEPIECE, "The")]).first[1] == 0  # none opens
    assert reader.read([*ids, pad, *ids]).count[len(ids)] == 0


def test_text_that_looks_like_a_special_token_is_text() -> None:
    reader = Reader(SENTENCEPIECE, BYTE_LEVEL)
    reading = reader.read(encoded(BYTE_LEVEL, "a <s> b </s>"))
    assert reading.teacher_ids.count(SENTENCEPIECE.bos_token_id) == 1
    assert SENTENCEPIECE.eos_token_id not in reading.teacher_ids


def test_a_normaliser_that_changes_text_leaves_rows_out() -> None:
    """This teacher reads ½ as three characters: no row about it, and the rows after it are still right."""
    changed = sentencepiece(normalizer=nfkc())
    text = "The people ½ of the union"
    ids = encoded(BYTE_LEVEL, text)
    plain, reading = Reader(SENTENCEPIECE, BYTE_LEVEL).read(ids), Reader(changed, BYTE_LEVEL).read(ids)
    tokens = token_bytes(BYTE_LEVEL, "student")
    offset = 0
    inside = (text.encode().index("½".encode()), text.encode().index(b" of"))
    told = 0
    for index, token in enumerate(ids):
        value = tokens.of_id[token] or b""
        if offset < inside[1] and offset + len(value) > inside[0]:
            assert reading.count[index] == 0
        elif plain.count[index]:
            told += 1
            span = reading.teacher_ids[reading.first[index] : reading.first[index] + reading.count[index]]
            assert joined(token_bytes(changed, "teacher"), span).strip() == value.strip()
        offset += len(value)
    assert told == 5


# --- probabilities -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pair", PAIRS)
def test_span_probabilities_are_the_dense_product(pair: str) -> None:
    """Chain rule by brute force on the teacher's full distribution; the tail is what is left."""
    teacher_tokenizer, student = PAIRS[pair]
    teacher = teacher_with(teacher_tokenizer)
    alignment = ByteSpan().between(teacher_tokenizer, student)
    sequences = [encoded(student, TEXT), encoded(student, "No nation has ever spent 🙂🙂 its way")]
    batch = batch_of(*sequences)
    target = alignment.signals(teacher, batch, NEEDS, SparseSpec("topk", K)).target
    assert target is not None and target.ids_NK.shape == (len(batch.rows()), K)
    found = target.log_probs().double()
    kinds = {"span": 0, "token": 0, "nothing": 0}
    shared = alignment.reader.student_ids()
    rows = batch.rows()
    for n, (s, t) in enumerate(zip(rows.sequence_N.tolist(), rows.position_N.tolist(), strict=True)):
        reading = alignment.reader.read(sequences[s])
        logp_TV = dense_logp(teacher, reading.teacher_ids)
        first, count, label = reading.first[t + 1], reading.count[t + 1], sequences[s][t + 1]
        entries = {int(i): float(found[n, j]) for j, i in enumerate(target.ids_NK[n].tolist()) if i >= 0}
        if count == 0:
            kinds["nothing"] += 1
            assert entries == {} and float(found[n, -1]) == 0.0
            continue
        if count > 1:
            kinds["span"] += 1
            product = sum(float(logp_TV[i - 1, reading.teacher_ids[i]]) for i in range(first, first + count))
            assert entries == {label: pytest.approx(product, abs=1e-5)}
        else:
            kinds["token"] += 1
            top = logp_TV[first - 1].topk(K)
            own = {reading.teacher_ids[first]: label}
            expected = {
                own.get(v, shared.get(v, -1)): p for p, v in zip(top.values.tolist(), top.indices.tolist(), strict=True)
            }
            expected.pop(-1, None)
            assert entries == pytest.approx(expected, abs=1e-5)
        rest = 1 - sum(torch.tensor(list(entries.values()), dtype=torch.float64).exp().tolist())
        assert float(found[n, -1].exp()) == pytest.approx(rest, abs=1e-6)
    assert min(kinds.values()) > 0, kinds


@pytest.mark.parametrize("pair", PAIRS)
def test_chunks_are_the_chain_rule_on_spellings(pair: str) -> None:
    """Brute force over the whole vocabulary: each teacher token spelled by the student's tokenizer, one at a time."""
    teacher_tokenizer, student = PAIRS[pair]
    teacher = teacher_with(teacher_tokenizer)
    alignment = ByteSpan(ByteSpanOptions(chunks=True)).between(teacher_tokenizer, student)
    plain = ByteSpan().between(teacher_tokenizer, student)
    sequences = [encoded(student, TEXT), encoded(student, "No nation has ever spent the liberty of its people")]
    batch = batch_of(*sequences)
    target, without = (one.signals(teacher, batch, NEEDS, SparseSpec("topk", K)).target for one in (alignment, plain))
    assert target is not None and without is not None
    found, rows = target.log_probs().double(), batch.rows()
    spelled = {
        index: tuple(spelling_inside(student, value))
        for index, value in enumerate(alignment.reader.teacher.of_id)
        if value
    }
    products: dict[tuple[int, int], float] = {}
    chunk_rows = set()
    for n, (s, t) in enumerate(zip(rows.sequence_N.tolist(), rows.position_N.tolist(), strict=True)):
        reading = alignment.reader.read(sequences[s])
        chunk = next((c for c in reading.chunks if c.start <= t + 1 < c.start + c.count), None)
        if chunk is None:
            continue
        chunk_rows.add(n)
        assert without.ids_NK[n].tolist() == [-1] * K
        p_V = dense_logp(teacher, reading.teacher_ids)[chunk.place - 1].exp()
        own, ids = reading.teacher_ids[chunk.place], tuple(sequences[s][chunk.start : chunk.start + chunk.count])

        def mass(length: int, *, p_V: torch.Tensor = p_V, own: int = own, ids: tuple[int, ...] = ids) -> float:
            inside = [v for v, spelling in spelled.items() if v == own or spelling[:length] == ids[:length]]
            return float(p_V[inside].sum())

        before = t + 1 - chunk.start
        here = float(p_V[own]) if before + 1 == chunk.count else mass(before + 1)
        expected = here / (mass(before) if before else 1.0)
        assert target.ids_NK[n].tolist() == [sequences[s][t + 1]] + [-1] * (K - 1)
        assert float(found[n, 0].exp()) == pytest.approx(expected, rel=1e-5)
        assert float(found[n, -1].exp()) == pytest.approx(1 - expected, abs=1e-6)
        key = (s, chunk.place)
        products[key] = products.get(key, 0.0) + float(found[n, 0])
        if before + 1 == chunk.count and chunk.start > 0:
            assert products[key] == pytest.approx(float(p_V[own].log()), abs=1e-5), "the product is P(b)"
    others = [n for n in range(len(rows)) if n not in chunk_rows]
    torch.testing.assert_close(target.log_probs()[others], without.log_probs()[others])
    torch.testing.assert_close(target.ids_NK[others], without.ids_NK[others])
    assert len(chunk_rows) > 4, chunk_rows


def test_the_first_word_of_a_text_is_no_chunk_where_the_teacher_puts_a_space_before_it() -> None:
    """``▁The`` against ``T`` ``he``: what else could stand there would be spelled with a space, the text is not."""
    reader = Reader(SENTENCEPIECE, BYTE_LEVEL)
    chunks = {}
    for text in ("nation", "A nation"):
        ids = encoded(BYTE_LEVEL, text)
        reading = reader.read(ids)
        chunks[text] = [joined(reader.student, ids[c.start : c.start + c.count]) for c in reading.chunks]
        assert SENTENCEPIECE.convert_tokens_to_ids("▁nation") in reading.teacher_ids
    assert chunks == {"nation": [], "A nation": [b" nation"]}


def spelling_inside(tokenizer: Any, value: bytes) -> list[int]:
    """The student's tokens of bytes inside a text, found behind other texts; [] where none shows them alone."""
    tokens = token_bytes(tokenizer, "student")
    try:
        text = value.decode()
    except UnicodeDecodeError:
        return []
    for before in ("", "\n", "a"):
        ids, _ = tokens.encode(before + text)
        for start in range(len(ids)):
            put = joined(tokens, ids[:start])
            if put.removeprefix(b" ") in (before.encode(), b"") and joined(tokens, ids[start:]) == value:
                return ids[start:]
    return []


def test_a_chunk_on_a_teacher_that_does_not_answer_on_given_ids() -> None:
    class OwnIds(HFTeacher):
        def signals(self, batch: TokenBatch, needs: Needs, sparse: SparseSpec | None = None) -> TeacherSignals:
            return super().signals(batch, needs, None if sparse is None else replace(sparse, ids_NK=None))

    model = teacher_with(SENTENCEPIECE).model
    teacher = OwnIds.from_model(model, SENTENCEPIECE, label="own ids")
    alignment = ByteSpan(ByteSpanOptions(chunks=True)).between(SENTENCEPIECE, BYTE_LEVEL)
    ids = encoded(BYTE_LEVEL, "No nation has ever spent its way")
    assert alignment.reader.read(ids).chunks
    with pytest.raises(SignalError, match="answered about others"):
        alignment.signals(teacher, batch_of(ids), NEEDS, SparseSpec("topk", K))


def test_shared_vocabulary_at_two_temperatures() -> None:
    teacher = teacher_with(BYTE_LEVEL)
    alignment = SharedVocabulary().between(BYTE_LEVEL, SENTENCEPIECE)
    ids = encoded(SENTENCEPIECE, TEXT)
    needs = replace(NEEDS, temperatures=(1.0, 2.0))
    target = alignment.signals(teacher, batch_of(ids), needs, SparseSpec("topk", K)).target
    assert target is not None and target.temperatures == (1.0, 2.0)
    reading = alignment.reader.read(ids)
    with torch.no_grad():
        logits_TV = teacher.model(torch.tensor([reading.teacher_ids])).logits[0].double()
    shared = alignment.reader.student_ids()
    for n, first in enumerate(reading.first[1:]):
        if first == 0:
            assert bool((target.ids_NK[n] == -1).all())
            continue
        for temperature in (1.0, 2.0):
            p_V = (logits_TV[first - 1] / temperature).softmax(0)
            expected = {shared[v]: float(p_V[v]) for v in logits_TV[first - 1].topk(K).indices.tolist() if v in shared}
            row = target.log_probs(temperature)[n].double().exp()
            entries = {i: float(row[j]) for j, i in enumerate(target.ids_NK[n].tolist()) if i >= 0}
            assert entries == pytest.approx(expected, abs=1e-6)
            assert float(row[-1]) == pytest.approx(1 - sum(expected.values()), abs=1e-6)


def test_ranked_log_probs() -> None:
    teacher = teacher_with(BYTE_LEVEL)
    alignment = SharedVocabulary().between(BYTE_LEVEL, SENTENCEPIECE)
    ids = encoded(SENTENCEPIECE, TEXT)
    ranked = alignment.signals(teacher, batch_of(ids), RANKED, SparseSpec("topk", K)).extra["ranked_log_probs"]
    reading = alignment.reader.read(ids)
    logp_TV = dense_logp(teacher, reading.teacher_ids)
    for n, first in enumerate(reading.first[1:]):
        if first == 0:
            assert bool(torch.isneginf(ranked[n]).all())
        else:
            torch.testing.assert_close(ranked[n, :-1].double(), logp_TV[first - 1].topk(K).values, atol=1e-5, rtol=0)
            assert float(ranked[n].double().exp().sum()) == pytest.approx(1, abs=1e-5)


def test_a_batch_without_aligned_rows() -> None:
    """One token, or bytes that are no text at all: N = 0 and A = 0."""
    teacher = teacher_with(SENTENCEPIECE)
    for aligner in (ByteSpan(), SharedVocabulary()):
        alignment = aligner.between(SENTENCEPIECE, BYTE_LEVEL)
        bad = token_bytes(BYTE_LEVEL, "student").canonical()[b"\xff"]
        for ids, rows in (([bad], 0), ([bad, bad, bad], 2)):
            answer = alignment.signals(teacher, batch_of(ids), RANKED, SparseSpec("topk", K))
            assert answer.target is not None and answer.target.ids_NK.tolist() == [[-1] * K] * rows
            assert answer.target.log_probs()[:, -1].tolist() == [0.0] * rows
            assert answer.extra["ranked_log_probs"].shape[0] == rows


# --- captured through an aligner, and what is refused --------------------------------------------------------------


@pytest.mark.parametrize("name", ["byte-span", "shared-vocabulary"])
def test_captured_through_an_aligner_is_read_like_any_store(name: str, tmp_path: Path) -> None:
    teacher = teacher_with(BYTE_LEVEL)
    policy = chosen_policy(ComponentRef(use=name), get_registry())
    rows = len(SENTENCEPIECE)
    aligned, sentence = with_vocabulary(teacher, SENTENCEPIECE, student_rows=rows, policy=policy)
    assert "different tokenizers" in sentence and f"aligner {name}" in sentence and "have a counterpart" in sentence
    ids = encoded(SENTENCEPIECE, TEXT)
    batch = batch_of(ids)
    (sequence,) = [
        TokenSequence(batch.input_ids_BT[0].int().numpy(), batch.labels_BT[0].int().numpy(), "d", batch.keys[0])
    ]
    capture(aligned, [sequence], CaptureConfig(method="topk", k=K), tmp_path / "store")
    stored, sentence = with_vocabulary(
        StoredSignals(tmp_path / "store"), SENTENCEPIECE, student_rows=rows, policy=policy
    )
    assert "has nothing to do here" in sentence
    assert name in stored.identity() and stored.identity() != teacher.identity()
    live = aligned.signals(batch, NEEDS, SparseSpec("topk", K)).target
    read = stored.signals(batch, NEEDS).target
    assert live is not None and read is not None
    for n in range(len(live)):
        ours, theirs = (
            {i: float(p) for i, p in zip(t.ids_NK[n].tolist(), t.log_probs()[n].exp(), strict=False) if i >= 0}
            for t in (live, read)
        )
        assert ours == pytest.approx(theirs, rel=0.02, abs=1e-6)
        assert float(live.log_probs()[n, -1].exp()) == pytest.approx(float(read.log_probs()[n, -1].exp()), abs=0.01)


def test_a_store_made_without_the_aligner_is_refused(tmp_path: Path) -> None:
    teacher = teacher_with(BYTE_LEVEL)
    batch = batch_of(encoded(BYTE_LEVEL, "The state"))
    ids = batch.input_ids_BT[0].int().numpy()
    capture(teacher, [TokenSequence(ids, ids, "d", batch.keys[0])], CaptureConfig(method="topk", k=4), tmp_path)
    policy = NamedAligner("byte-span()", ByteSpan())
    with pytest.raises(VocabularyError, match=r"no tokenizer \(a store made without the aligner.*capture with this"):
        with_vocabulary(StoredSignals(tmp_path), SENTENCEPIECE, student_rows=len(SENTENCEPIECE), policy=policy)


def test_the_same_tokenizer_needs_no_aligner() -> None:
    teacher = teacher_with(BYTE_LEVEL)
    policy = NamedAligner("byte-span()", ByteSpan())
    found, sentence = with_vocabulary(teacher, byte_level(), student_rows=len(BYTE_LEVEL), policy=policy)
    assert found is teacher and "share one tokenizer" in sentence and "nothing to do" in sentence


class Slow:
    """A tokenizer without a backend."""


def test_tokenizers_that_cannot_be_read_are_refused() -> None:
    from tokenizers import Tokenizer, decoders, models
    from transformers import PreTrainedTokenizerFast

    with pytest.raises(VocabularyError, match=r"student's tokenizer is a Slow, a slow one without offsets"):
        ByteSpan().between(BYTE_LEVEL, Slow())
    pieces = Tokenizer(models.WordPiece({"[UNK]": 0, "a": 1, "##b": 2}, unk_token="[UNK]"))
    pieces.decoder = decoders.WordPiece()
    bert = PreTrainedTokenizerFast(tokenizer_object=pieces, unk_token="[UNK]")
    with pytest.raises(VocabularyError, match=r"teacher's tokenizer .* does not say which bytes"):
        SharedVocabulary().between(bert, BYTE_LEVEL)


class LikeliestAlone(HFTeacher):
    """Answers with its likeliest tokens whatever ids it is asked about, as a server does."""

    def signals(self, batch: TokenBatch, needs: Needs, sparse: SparseSpec | None = None) -> TeacherSignals:
        return super().signals(batch, needs, None if sparse is None else replace(sparse, ids_NK=None))


def test_wrong_questions() -> None:
    teacher = teacher_with(SENTENCEPIECE)
    alignment = ByteSpan().between(SENTENCEPIECE, BYTE_LEVEL)
    batch = batch_of(encoded(BYTE_LEVEL, TEXT))
    for needs, sparse, said in (
        (Needs(frozenset({"hidden_states"})), None, "hidden_states of a teacher with another tokenizer"),
        (replace(NEEDS, temperatures=(2.0,)), None, r"temperatures \[2.0\] .* answers at \[1.0\]"),
        (NEEDS, SparseSpec("threshold", 4), "method threshold; it translates exact top-k"),
        (NEEDS, SparseSpec("topk", 4, ids_NK=torch.zeros(1, 1)), "targets on given ids, as a mixture needs"),
    ):
        with pytest.raises(SignalError, match=said):
            alignment.signals(teacher, batch, needs, sparse)
    server = LikeliestAlone.from_model(teacher.model, SENTENCEPIECE)
    with pytest.raises(SignalError, match=r"answered about others.*shared-vocabulary asks for none"):
        alignment.signals(server, batch, NEEDS, SparseSpec("topk", 4))
    SharedVocabulary().between(SENTENCEPIECE, BYTE_LEVEL).signals(server, batch, NEEDS, SparseSpec("topk", 4))
