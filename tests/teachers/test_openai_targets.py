"""Targets from servers that list log-probabilities in different ways: exact, aligned, or refused.

The servers are fakes around a tiny real model (``faults/model_server.py``); a real one is in ``test_openai_server.py``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from distill_core.config import CaptureConfig
from distill_core.engine.capture import capture
from distill_core.engine.data import TokenSequence, collate
from distill_core.engine.stored import StoredSignals
from distill_core.errors import SignalError, VocabularyError
from distill_core.plugin import Needs
from distill_core.testing import check_plugin
from distill_core.types import RowTarget, SparseSpec, TokenBatch
from distill_teachers.hf import HFTeacher
from distill_teachers.listed_rows import listed_target, tail_logprob
from distill_teachers.openai import OpenAITeacher
from distill_teachers.openai_options import OpenAIOptions
from distill_teachers.server.prompt_distributions import PromptDistributions
from distill_teachers.server.reading import Position, Shown
from distill_teachers.server.token_texts import TokenTexts
from tests.conftest import SENTENCES, make_tiny_llama
from tests.teachers.conftest import sequence
from tests.teachers.faults.fake_server import FakeServer
from tests.teachers.faults.model_server import ModelChoice

NEEDS = Needs(frozenset({"targets"}), targets=("exact",), temperatures=(1.0,))
K = 12


@pytest.fixture(scope="module")
def local(tiny_tokenizer: Any) -> HFTeacher:
    model = make_tiny_llama(vocab_size=len(tiny_tokenizer), seed=5)
    return HFTeacher.from_model(model, tiny_tokenizer, label="the same model, here")


@contextmanager
def served(
    local: HFTeacher, directory: Path, tokenizer: Path, **style: Any
) -> Iterator[tuple[OpenAITeacher, FakeServer]]:
    options = {name: style.pop(name) for name in ("prompt_form", "top_logprobs", "extra") if name in style}
    choice = ModelChoice(local.model, local.tokenizer(), **style)
    with FakeServer(choice) as server:
        teacher = OpenAITeacher(
            OpenAIOptions(
                model="tiny",
                base_url=server.url,
                api_key_env=None,
                tokenizer=str(tokenizer),
                cache_dir=str(directory),
                attempts=2,
                backoff_s=0.001,
                **options,
            )
        )
        yield teacher, server
        teacher.close()


def batch_of(tokenizer: Any, *, bos: bool = False, inside: bool = False) -> TokenBatch:
    """Three of the tiny sentences; with a BOS in front, and inside."""
    front = [tokenizer.bos_token_id] if bos else []
    sequences: list[TokenSequence] = []
    for index, text in enumerate(SENTENCES[::3]):
        ids = tokenizer.encode(text, add_special_tokens=False)
        if inside:
            ids = [*ids[:9], tokenizer.bos_token_id, *ids[9:20], tokenizer.eos_token_id]
        sequences.append(sequence([*front, *ids], masked=index % 3, document=str(index)))
    return collate(sequences, pad_id=0)


def assert_exact(found: RowTarget | None, local: HFTeacher, batch: TokenBatch, *, named: float) -> None:
    """Every listed entry has the local model's log-probability, tails are what is left, and most mass is named.

    Args:
        named: least share of the local top-K mass whose ids the server's texts told.
    """
    assert found is not None
    vocabulary = local.vocabulary().size
    whole = local.signals(batch, NEEDS, SparseSpec("topk", vocabulary)).target
    assert whole is not None and len(found) == len(whole) == len(batch.rows())
    logp_NV = torch.full((len(whole), vocabulary), -math.inf).scatter(1, whole.ids_NK, whole.log_probs()[:, :-1])
    kept_NK = found.ids_NK >= 0
    expected_NK = logp_NV.gather(1, found.ids_NK.clamp_min(0))
    assert float((found.log_probs()[:, :-1] - expected_NK)[kept_NK].abs().max()) < 2e-5
    rest_N = 1 - (expected_NK.double().exp() * kept_NK).sum(1)
    torch.testing.assert_close(found.log_probs()[:, -1].double().exp(), rest_N, rtol=0, atol=2e-6)
    top_N = logp_NV.topk(K).values.double().exp().sum(1)
    assert float(((1 - rest_N) / top_N).mean()) > named


STYLES: dict[str, dict[str, Any]] = {
    "openai": {},
    "vllm": {"show": "token_id", "prompt_form": "ids"},
    "bytes": {"show": "bytes"},
    "llama-cpp": {"shift": 1, "show": "ignore", "omits_bos": True, "shift_with_bos": 0},
}


@pytest.mark.parametrize("bos", ["without-bos", "bos-first", "bos-inside", "bos-both"])
@pytest.mark.parametrize("style", STYLES)
def test_targets_are_the_models_whatever_the_order_of_the_list(
    style: str, bos: str, local: HFTeacher, tiny_tokenizer: Any, tiny_tokenizer_dir: Path, tmp_path: Path
) -> None:
    batch = batch_of(tiny_tokenizer, bos=bos in ("bos-first", "bos-both"), inside=bos in ("bos-inside", "bos-both"))
    with served(local, tmp_path, tiny_tokenizer_dir, **STYLES[style]) as (teacher, server):
        target = teacher.signals(batch, NEEDS, SparseSpec("topk", K)).target
        asked = len(server.payloads)
        again = teacher.signals(batch, NEEDS, SparseSpec("topk", K)).target
        assert len(server.payloads) == asked, "kept answers were paid again"
    # Random tiny models like lone bytes of characters, which texts cannot name; bytes (outside characters) and ids can.
    assert_exact(target, local, batch, named={"vllm": 0.99, "bytes": 0.9}.get(style, 0.3))
    assert again is not None and target is not None and torch.equal(again.ids_NK, target.ids_NK)


def test_a_server_that_adds_a_bos(
    local: HFTeacher, tiny_tokenizer: Any, tiny_tokenizer_dir: Path, tmp_path: Path
) -> None:
    """Sequences with a BOS are sent without it; sequences without one would be read as another text: refused."""
    style = {"adds_bos": True, "omits_bos": True, "show": "ignore"}
    with served(local, tmp_path, tiny_tokenizer_dir, **style) as (teacher, _):
        batch = batch_of(tiny_tokenizer, bos=True)
        assert_exact(teacher.signals(batch, NEEDS, SparseSpec("topk", K)).target, local, batch, named=0.3)
        with pytest.raises(SignalError, match="puts a BOS before every prompt, but a sequence does not begin with one"):
            teacher.signals(batch_of(tiny_tokenizer), NEEDS, SparseSpec("topk", K))


@pytest.mark.parametrize(
    ("style", "message"),
    [
        ({"shift": 2}, r"answers differently about the same tokens|order that is not understood"),
        ({"shift": -1}, r"order that is not understood \(shifts \[-1\]\)"),
        ({"noise_nat": 0.1}, "answers differently about the same tokens"),
        ({"frozen": True}, "nearly the same log-probabilities for prompts that differ"),
        ({"lists": False}, "lists no log-probabilities .*leave out `tokenizer`"),
        ({"scale": 1 / math.log(10)}, "sum to .* more than 1: these are no log-probabilities"),
        ({"adds_bos": True, "show": "token_id"}, r"puts a BOS before every prompt"),
    ],
    ids=["shift-2", "shift-minus-1", "noisy", "frozen", "no-logprobs", "base-10", "adds-bos"],
)
def test_what_is_not_understood_is_refused(
    style: dict[str, Any],
    message: str,
    local: HFTeacher,
    tiny_tokenizer: Any,
    tiny_tokenizer_dir: Path,
    tmp_path: Path,
) -> None:
    with (
        served(local, tmp_path, tiny_tokenizer_dir, **style) as (teacher, _),
        pytest.raises(SignalError, match=message),
    ):
        teacher.signals(batch_of(tiny_tokenizer), NEEDS, SparseSpec("topk", K))


def test_another_tokenizer_is_refused(
    local: HFTeacher, tiny_tokenizer: Any, tiny_tokenizer_dir: Path, tmp_path: Path
) -> None:
    """The server's model reads bytes one by one; the user named a tokenizer with merges."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {token: i for i, token in enumerate(["<pad>", "<bos>", "<eos>", *pre_tokenizers.ByteLevel.alphabet()])}
    bytewise = Tokenizer(models.BPE(vocab=words, merges=[]))
    bytewise.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytewise.decoder = decoders.ByteLevel()
    theirs = PreTrainedTokenizerFast(tokenizer_object=bytewise, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>")
    other = HFTeacher.from_model(make_tiny_llama(vocab_size=len(theirs)), theirs)
    with (
        served(other, tmp_path, tiny_tokenizer_dir) as (teacher, _),
        pytest.raises(
            SignalError, match=r"reads \d+ tokens where the tokenizer .* makes \d+: it is not the model's own"
        ),
    ):
        teacher.signals(batch_of(tiny_tokenizer), NEEDS, SparseSpec("topk", K))


def test_a_sequence_that_text_does_not_carry_is_refused(
    local: HFTeacher, tiny_tokenizer: Any, tiny_tokenizer_dir: Path, tmp_path: Path
) -> None:
    ids = tiny_tokenizer.encode("日本語 and more", add_special_tokens=False)[1:]
    batch = collate([sequence(ids)])
    with (
        served(local, tmp_path / "text", tiny_tokenizer_dir) as (teacher, _),
        pytest.raises(SignalError, match=r"cut inside a word or a character.*prompt_form: ids"),
    ):
        teacher.signals(batch, NEEDS, SparseSpec("topk", K))
    with served(local, tmp_path / "ids", tiny_tokenizer_dir, prompt_form="ids", show="token_id") as (teacher, _):
        assert_exact(teacher.signals(batch, NEEDS, SparseSpec("topk", K)).target, local, batch, named=0.99)


def test_an_alignment_is_never_taken_from_another_session(
    local: HFTeacher, tiny_tokenizer: Any, tiny_tokenizer_dir: Path, tmp_path: Path
) -> None:
    """The server is replaced by one that lists in another order, at the same address with the same cache."""
    batch = batch_of(tiny_tokenizer)
    choice = ModelChoice(local.model, local.tokenizer())
    with FakeServer(choice) as server:
        options = OpenAIOptions(
            model="m", base_url=server.url, api_key_env=None, tokenizer=str(tiny_tokenizer_dir), cache_dir=str(tmp_path)
        )
        for shift in (0, 1):
            choice.shift = shift
            teacher = OpenAITeacher(options)
            assert_exact(teacher.signals(batch, NEEDS, SparseSpec("topk", K)).target, local, batch, named=0.3)
            teacher.close()


def test_capture_into_a_store(local: HFTeacher, tiny_tokenizer: Any, tiny_tokenizer_dir: Path, tmp_path: Path) -> None:
    sequences = [sequence(tiny_tokenizer.encode(text, add_special_tokens=False)) for text in SENTENCES]
    with served(local, tmp_path, tiny_tokenizer_dir, show="token_id") as (teacher, _):
        result = capture(teacher, sequences, CaptureConfig(method="topk", k=K), tmp_path / "store")
    stored = StoredSignals(tmp_path / "store")
    batch = collate(sequences)
    target = stored.signals(batch, NEEDS).target
    expected = local.signals(batch, NEEDS, SparseSpec("topk", K)).target
    assert target is not None and expected is not None and result.rows == len(target)
    gap = (target.log_probs().sort(1).values - expected.log_probs().sort(1).values).abs().max()
    assert float(gap) <= stored.meta.error_nat + 1e-4
    assert stored.meta.teacher.startswith("server:http://127.0.0.1")


def test_conformance(local: HFTeacher, tiny_tokenizer_dir: Path, tmp_path: Path) -> None:
    choice = ModelChoice(local.model, local.tokenizer(), show="token_id")
    with FakeServer(choice) as server:
        given = {
            "model": "tiny",
            "base_url": server.url,
            "api_key_env": None,
            "endpoint": "completions",
            "tokenizer": str(tiny_tokenizer_dir),
            "prompt_form": "ids",
            "cache_dir": str(tmp_path),
        }
        results = [
            r for r in check_plugin("distill-teachers", options={"openai": given}) if "teachers:openai" in r.component
        ]
    assert [f"{r.check}: {r.detail}" for r in results if r.status == "failed"] == []
    assert sum(r.status == "passed" for r in results) >= 9


def test_what_only_a_model_here_can_give_is_refused(
    local: HFTeacher, tiny_tokenizer: Any, tiny_tokenizer_dir: Path, tmp_path: Path
) -> None:
    batch = batch_of(tiny_tokenizer)
    with served(local, tmp_path, tiny_tokenizer_dir) as (teacher, server):
        with pytest.raises(SignalError, match=r"cannot give \['hidden_states'\].*teacher of kind hf"):
            teacher.signals(batch, Needs(frozenset({"hidden_states"})))
        with pytest.raises(SignalError, match="no multinomial sample can be drawn: use method: topk"):
            teacher.signals(batch, NEEDS, SparseSpec("multinomial", 4))
        with pytest.raises(SignalError, match=r"temperatures \[1.0, 2.0\]; listed log-probabilities are those"):
            teacher.signals(batch, NEEDS, SparseSpec("topk", 4, temperatures=(1.0, 2.0)))
        with pytest.raises(SignalError, match=r"k = 64 entries, but lists at most 20 \(top_logprobs\)"):
            teacher.signals(batch, NEEDS, SparseSpec("topk", 64))
        with pytest.raises(SignalError, match=r"its own likeliest tokens, not given ones.*joint capture"):
            teacher.signals(batch, NEEDS, SparseSpec("topk", 4, ids_NK=torch.zeros(len(batch.rows()), 4).long()))
        assert server.payloads == []


def test_texts_name_a_token_only_where_no_other_can_be_meant(tiny_tokenizer: Any) -> None:
    texts = TokenTexts(tiny_tokenizer)
    for index, content in texts.content.items():
        for errors in ("strict", "ignore", "replace"):
            try:
                text = content.decode("utf-8", errors=errors)
            except UnicodeDecodeError:
                continue
            assert texts.id_of(Shown(text, -1.0)) in (index, None)
            assert texts.fits(Shown(text, -1.0), index)
        if index not in texts.special_ids:
            assert texts.id_of(Shown("?", -1.0, content)) == index
        assert texts.id_of(Shown(f"token_id:{index}", -1.0)) == index
    assert texts.id_of(Shown("", -1.0)) is None
    assert texts.id_of(Shown("\ufffd", -1.0)) is None
    assert texts.id_of(Shown("token_id:99999", -1.0)) is None
    assert b"".join(texts.content[i] for i in tiny_tokenizer.encode("naïve 🙂", add_special_tokens=False)) == (
        "naïve 🙂".encode()
    )


def test_a_tokenizer_that_does_not_tell_its_bytes_is_refused() -> None:
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0, "b": 1}, unk_token="a")))
    with pytest.raises(VocabularyError, match="neither byte-level nor SentencePiece"):
        TokenTexts(words)


def test_tails_are_exact_or_at_the_least_that_can_be_told() -> None:
    rng = np.random.default_rng(0)
    for tail in (0.5, 1e-2, 1e-4, 1e-6):
        p = rng.dirichlet(np.ones(6)) * (1 - tail)
        listed = np.log(p).astype(np.float32).tolist()
        assert tail_logprob(listed) == pytest.approx(math.log(tail), abs=3e-7 / tail)
    assert tail_logprob([0.0]) == pytest.approx(math.log(1e-7))
    assert tail_logprob([0.0], whole_vocabulary=True) == -math.inf
    with pytest.raises(SignalError, match="more than 1"):
        tail_logprob([-0.1, -0.1])
    target = listed_target([{3: -0.5, 1: -2.0, 2: -9.0}, {}, {0: 0.0}], k=2, vocabulary=5)
    assert target.ids_NK.tolist() == [[3, 1], [-1, -1], [0, -1]]
    torch.testing.assert_close(target.log_probs().exp().sum(1), torch.ones(3))
    assert target.log_probs()[1].tolist() == [-math.inf, -math.inf, 0.0]
    assert len(listed_target([], k=2, vocabulary=5)) == 0


def test_inside_a_character_texts_name_nothing() -> None:
    """Servers that decode as they go show the byte that completes a character as the whole character, which may be a
    token of its own; bytes and ids are taken there too."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    first, second = "Ã", "©"  # the letters of the two bytes of é
    words = {token: i for i, token in enumerate(["<s>", *sorted(pre_tokenizers.ByteLevel.alphabet()), first + second])}
    backend = Tokenizer(models.BPE(vocab=words, merges=[(first, second)]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    texts = TokenTexts(PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>"))
    asker: Any = None  # nothing is asked
    reading = PromptDistributions(asker, texts, label="server")
    whole, half = [words["a"]], [words["a"], words[first]]
    entry = Position(Shown("x", -1.0), (Shown("é", -0.5), Shown("a", -2.0)))
    assert reading._row(entry, whole) == {words[first + second]: -0.5, words["a"]: -2.0}
    assert reading._row(entry, half) == {}
    exact = Position(Shown("x", -1.0), (Shown("é", -0.5, "é".encode()[1:]), Shown(f"token_id:{words['a']}", -2.0)))
    assert reading._row(exact, half) == {words[second]: -0.5, words["a"]: -2.0}


def test_sentencepiece_tokens_are_told_by_their_spaces() -> None:
    from tokenizers import Tokenizer, decoders, models
    from transformers import PreTrainedTokenizerFast

    pieces = [
        "<unk>",
        "<s>",
        "</s>",
        *(f"<0x{byte:02X}>" for byte in range(256)),
        "\u2581the",
        "the",
        "\u2581",
        "日",
        "A",
    ]
    words = {token: i for i, token in enumerate(pieces)}
    backend = Tokenizer(models.BPE(vocab=words, merges=[], byte_fallback=True, unk_token="<unk>"))
    steps = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    backend.decoder = decoders.Sequence(steps)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    texts = TokenTexts(tokenizer)
    assert texts.marks_spaces
    assert texts.content[words["\u2581the"]] == b" the"
    assert texts.id_of(Shown(" the", -1.0)) == words["\u2581the"]
    assert texts.id_of(Shown("the", -1.0)) == words["the"]
    assert texts.id_of(Shown("日", -1.0)) == words["日"]
    assert texts.id_of(Shown("A", -1.0)) is None  # the letter, or the byte 0x41
    assert texts.id_of(Shown("?", -1.0, b"\xe6")) == words["<0xE6>"]
    assert texts.fits(Shown("the", -1.0), words["\u2581the"], begins=True)
    assert not texts.fits(Shown("the", -1.0), words["\u2581the"])
    asker: Any = None  # nothing is asked
    reading = PromptDistributions(asker, texts, label="server")
    entry = Position(Shown("x", -1.0), (Shown("the", -0.5),))
    assert reading._row(entry, [words["日"]]) == {words["the"]: -0.5}
    assert reading._row(entry, [words["<s>"]]) == {}  # may be the token with its space
