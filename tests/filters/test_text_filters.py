"""Filters that read the text alone: length, MinHash, language, word list; hostile text through all of them."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distill_core.errors import ConfigError, DataError
from distill_synthesis.filters.minhash_dedup import MinhashDedup
from distill_synthesis.filters.options import ALL_PII, MinhashDedupOptions
from distill_synthesis.filters.record_text import text_of
from distill_synthesis.filters.words import words
from tests.filters.conftest import HOSTILE, Make

SENTENCES = {
    "en": "The committee will meet again on Thursday to discuss the budget for the coming year.",
    "de": "Der Ausschuss tritt am Donnerstag wieder zusammen, um den Haushalt des nächsten Jahres zu beraten.",
    "fr": "La commission se réunira de nouveau jeudi pour discuter du budget de l'année prochaine.",
    "es": "La comisión volverá a reunirse el jueves para discutir el presupuesto del próximo año.",
    "it": "La commissione si riunirà di nuovo giovedì per discutere il bilancio del prossimo anno.",
    "nl": "De commissie komt donderdag opnieuw bijeen om de begroting voor het komende jaar te bespreken.",
    "pl": "Komisja zbierze się ponownie w czwartek, aby omówić budżet na przyszły rok.",
    "ru": "Комитет снова соберётся в четверг, чтобы обсудить бюджет на следующий год.",
    "ar": "ستجتمع اللجنة مرة أخرى يوم الخميس لمناقشة ميزانية العام المقبل.",
    "zh": "委员会将于星期四再次召开会议来讨论明年的预算问题以及听取各部门的报告和意见。",
    "ja": "委員会は木曜日に再び会合を開き、来年度の予算について話し合う予定です。",
}


def filters(make: Make, directory: Path) -> dict[str, Any]:
    """One of each filter that reads text alone."""
    listed = directory / "list.txt"
    listed.write_text("forbidden\n", encoding="utf-8")
    evaluation = directory / "evaluation.txt"
    evaluation.write_text("one two three four five six seven eight nine ten\n", encoding="utf-8")
    return {
        "exact": make("exact-dedup"),
        "minhash words": make("minhash-dedup"),
        "minhash characters": make("minhash-dedup", unit="characters"),
        "characters": make("length", min=1, max=9),
        "words": make("length", unit="words", min=1),
        "tokens": make("length", unit="tokens", min=1),
        "language": make("language", keep="en"),
        "pii": make("pii"),
        "list": make("safety-list", file=str(listed)),
        "decontamination": make("decontamination", against={"e": str(evaluation)}, ngram=5),
    }


def test_hostile_text_is_judged_and_never_raises(make: Make, tmp_path: Path) -> None:
    for name, judge in filters(make, tmp_path).items():
        for text in HOSTILE:
            verdict = judge.verdict({"text": text, "document": "d"})
            assert verdict is None or verdict.strip(), (name, text[:20])
            assert judge.verdict({"prompt": text, "completion": 3}) != "", name
        assert judge.verdict({}) is None or judge.verdict({}).strip(), name


def test_parts_of_a_record() -> None:
    turns = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]
    chat = {"messages": [*turns, {"role": "assistant", "content": "a"}]}
    assert [text_of(chat, part) for part in ("all", "prompt", "answer")] == ["s\nu\na", "s\nu", "a"]
    assert text_of({"messages": turns}, "answer") == "" and text_of({"messages": turns}, "prompt") == "s\nu"
    parts = {"parts": [{"text": "2 + 2 =", "predict": False}, {"text": " 4"}]}
    assert text_of(parts, "prompt") == "2 + 2 =" and text_of(parts, "answer") == " 4"
    assert text_of({"text": 7}) == ""


@pytest.mark.parametrize(
    ("unit", "text", "count"),
    [("characters", "naïve 🙂", 7), ("words", " one\ttwo\n\nthree ", 3), ("tokens", "ab", 2), ("characters", "", 0)],
)
def test_length_counts(make: Make, unit: str, text: str, count: int) -> None:
    assert make("length", unit=unit, min=count, max=count).verdict({"text": text}) is None
    assert make("length", unit=unit, min=count + 1).verdict({"text": text}) == (
        f"too short: {count} {unit}, at least {count + 1}"
    )
    if count:
        assert make("length", unit=unit, max=count - 1).verdict({"text": text}) == (
            f"too long: {count} {unit}, at most {count - 1}"
        )


def test_length_used_wrongly(make: Make) -> None:
    with pytest.raises(ConfigError, match="neither min nor max"):
        make("length")
    with pytest.raises(ConfigError, match="min 5 lies above max 2"):
        make("length", min=5, max=2)
    with pytest.raises(DataError, match="has no tokenizer: set unit to characters or words"):
        make("length", unit="tokens", min=1, tokenizer=lambda: None)


def random_set(rng: random.Random, size: int) -> set[str]:
    return {f"gram {rng.getrandbits(48)}" for _ in range(size)}


def test_minhash_estimates_the_jaccard_similarity() -> None:
    judge = MinhashDedup(MinhashDedupOptions(permutations=256))
    rng, errors, expected = random.Random(1), [], []
    for shared in (0, 10, 40, 80, 120, 160, 190, 200):
        for _ in range(12):
            both = random_set(rng, shared)
            a, b = both | random_set(rng, 200 - shared), both | random_set(rng, 200 - shared)
            exact = len(a & b) / len(a | b)
            one, other = judge.sketch(a).hashvalues, judge.sketch(b).hashvalues
            errors.append(float(np.mean(one == other)) - exact)
            expected.append(exact * (1 - exact) / 256)
    # A mean of 96 estimates, each a share of 256 agreements: within four standard errors; none beyond five of its own.
    assert abs(np.mean(errors)) < 4 * np.sqrt(np.sum(expected)) / len(errors)
    assert np.all(np.abs(errors) <= 5 * np.sqrt(expected) + 1e-12)


def sentence(rng: random.Random, count: int) -> list[str]:
    return [f"w{rng.randrange(5000)}" for _ in range(count)]


def test_minhash_drops_near_duplicates_and_names_them(make: Make) -> None:
    rng = random.Random(2)
    base = sentence(rng, 200)
    edited = [*base[:100], "other", *base[101:]]  # 5 of 196 n-grams differ on each side: Jaccard 0.95
    half = [*base[:100], *sentence(rng, 100)]
    rows = [
        {"text": " ".join(base), "document": "base"},
        {"text": " ".join(sentence(rng, 200)), "document": "other"},
        {"text": " ".join(edited).upper().replace(" ", "\n"), "document": "edited"},
        {"text": " ".join(half), "document": "half"},
        {"text": "w1"},
        {"text": "W1"},
        {"text": "..."},
        {"text": "!!!"},
    ]
    for judge in (make("minhash-dedup"), make("minhash-dedup", unit="characters", ngram=9)):
        verdicts = [judge.verdict(row) for row in rows]
        dropped = [verdict is not None for verdict in verdicts]
        assert dropped == [False, False, True, False, False, True, False, False], verdicts
        assert verdicts[2].startswith("near duplicate: of document base, Jaccard about 0.9")
        assert verdicts[5] == "near duplicate: of document record-5, Jaccard about 1.00"


def test_minhash_gives_the_same_on_every_pass_and_seed_matters(make: Make) -> None:
    rng = random.Random(3)
    base = sentence(rng, 120)
    rows = [{"text": " ".join(base[: 120 - cut])} for cut in range(0, 60, 3)]
    first = [make("minhash-dedup").verdict(row) for row in rows[:1]]
    passes = [[judge.verdict(row) for row in rows] for judge in (make("minhash-dedup"), make("minhash-dedup"))]
    assert passes[0] == passes[1] and first == passes[0][:1]
    a, b = (MinhashDedup(MinhashDedupOptions(seed=seed)).sketch({"x", "y"}).hashvalues for seed in (1, 2))
    assert (a != b).any()
    with pytest.raises(ConfigError, match="permutations"):
        make("minhash-dedup", permutations=4)


@pytest.mark.parametrize("language", SENTENCES)
def test_language_of_real_sentences(make: Make, language: str) -> None:
    judge = make("language", keep=[language])
    assert judge.verdict({"text": SENTENCES[language]}) is None
    others = [judge.verdict({"text": text}) for code, text in SENTENCES.items() if code != language]
    assert all(verdict and verdict.startswith("in another language: ") for verdict in others)
    assert judge.verdict({"text": SENTENCES[language].upper() + "\0🙂"}) is None


def test_language_of_what_cannot_be_told(make: Make) -> None:
    for text in ("", "🙂" * 100, "12345 67890 " * 20, "Ja."):
        assert make("language", keep="de").verdict({"text": text}) is None
        assert make("language", keep="de", short="drop").verdict({"text": text}).startswith("too short to tell: ")
    mixed = " ".join([SENTENCES["en"], SENTENCES["nl"], SENTENCES["fr"]])
    unsure = make("language", keep=["en", "nl", "fr"], min_confidence=1.0).verdict({"text": mixed})
    assert unsure is not None and unsure.startswith("language unsure: ")


def test_language_used_wrongly(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match=r"no language 'english' is known; give ISO 639-1 codes of .*en"):
        make("language", keep="english")
    with pytest.raises(ConfigError, match="keep"):
        make("language")
    from distill_synthesis.filters import language

    language._identifier.cache_clear()
    monkeypatch.setitem(__import__("sys").modules, "py3langid.langid", None)
    with pytest.raises(DataError, match=r"pip install 'distill-synthesis\[language\]'"):
        make("language", keep="en")


def write(directory: Path, content: str | bytes) -> str:
    path = directory / "words.txt"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def test_the_list_finds_whole_words_by_line_however_they_are_written(make: Make, tmp_path: Path) -> None:
    file = write(tmp_path, "# comment\n\nfoo\nStraße\nred  herring\nनमस्ते\n東京\nFOO\n")
    judge = make("safety-list", file=file)
    assert judge.verdict({"text": "food barfoo foo1 strassen red, herrings"}) is None
    for text, line in (
        ("A FOO!", 3),
        ("f\u200bo\u00ado", 3),
        ("\uff46\uff4f\uff4f", 3),
        ("STRASSE", 4),
        ("Red\nHerring", 5),
        ("(red-herring)", 5),
        ("नमस्ते।", 6),
        ("私は東京に住む", 7),
    ):
        assert judge.verdict({"text": text}) == f"listed: line {line} (1 times)", text
    assert judge.verdict({"text": "नमस्तेजी"}) is None, "a part of a word is no word"
    assert judge.verdict({"text": "foo FOO red herring"}) == "listed: line 3 (2 times), line 5 (1 times)"
    assert make("safety-list", file=file, allowed=2).verdict({"text": "foo foo"}) is None
    assert judge.private and "foo" not in judge.verdict({"text": "foo"})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "has no entry"),
        ("# only\n", "has no entry"),
        ("ok\n!!!\n", r"words.txt:2: '!!!' holds no letter"),
        (b"\xff\xfe", "cannot be read"),
    ],
)
def test_a_list_that_is_none(make: Make, tmp_path: Path, content: str | bytes, message: str) -> None:
    file = write(tmp_path, content)
    with pytest.raises(DataError, match=message):
        make("safety-list", file=file)


def test_a_list_that_is_not_there(make: Make, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"missing.txt cannot be read"):
        make("safety-list", file=str(tmp_path / "missing.txt"))


def test_words_are_found_in_many_scripts() -> None:
    assert words("Don't e\u0301t\u00e9 — ОДИН_два") == ["don", "t", "été", "один", "два"]
    assert words("हिन्दी में") == ["हिन्दी", "में"]
    assert words("カタカナ漢字kana") == ["カ", "タ", "カ", "ナ", "漢", "字", "kana"]
    assert words("\0\u202e \ufeff") == []
    assert len(ALL_PII) == 10
