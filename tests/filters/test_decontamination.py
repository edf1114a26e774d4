"""Decontamination against a brute-force search, and what it says."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path
from typing import Any

import pytest

from distill_core.errors import ConfigError, DataError
from tests.filters.conftest import Make


def rows(path: Path, texts: list[str], name: str = "e") -> str:
    lines = [json.dumps({"text": text, "id": f"{name}-{i}"}) for i, text in enumerate(texts)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(path)


def grams(text: str, n: int) -> set[tuple[str, ...]]:
    """The plain way, for ASCII: lower case, letters and digits."""
    found = re.findall("[a-z0-9]+", text.lower())
    return {tuple(found[i : i + n]) for i in range(len(found) - n + 1)}


def source(path: str) -> dict[str, Any]:
    return {"use": "jsonl", "path": path, "document": "id"}


@pytest.mark.parametrize("share", [0.0, 0.2, 0.6])
def test_it_agrees_with_brute_force(make: Make, tmp_path: Path, share: float) -> None:
    rng, n = random.Random(5), 4
    evaluation = [" ".join(rng.choices("abcdefgh", k=rng.randrange(4, 30))) for _ in range(40)]
    judge = make(
        "decontamination", against={"set": source(rows(tmp_path / "e.jsonl", evaluation))}, ngram=n, share=share
    )
    dropped = 0
    for _ in range(300):
        words = rng.choices("abcdefghijklmnop", k=rng.randrange(1, 25))
        if rng.random() < 0.3:
            words[5:5] = rng.choice(evaluation).split()[: rng.randrange(3, 20)]
        text = rng.choice([" ", ", ", "\n"]).join(words).upper()
        own = grams(text, n)
        shares = [len(grams(one, n) & own) / len(grams(one, n)) for one in evaluation]
        best = max(shares)
        verdict = judge.verdict({"text": text})
        assert (verdict is not None) == (best > share), (text, verdict, best)
        if verdict is not None:
            dropped += 1
            holder = re.match(r"in set: document e-(\d+), (\d+)% of its n-grams, e\.g\. \"(.+)\"", verdict)
            assert holder is not None, verdict
            assert shares.index(best) == int(holder[1]) and f"{best:.0%}" == f"{holder[2]}%"
            example = tuple(holder[3].split())
            assert example in own and example in grams(evaluation[int(holder[1])], n)
    assert 20 < dropped < 280, "the case decides nothing"


def test_thirteen_words_whatever_stands_between_them(make: Make, tmp_path: Path) -> None:
    question = "If a train leaves the station at noon, and travels at sixty miles per hour, when does it arrive?"
    against = {"trains": rows(tmp_path / "q.jsonl", [question])}
    judge = make("decontamination", against=against)
    words = question.split()
    assert judge.verdict({"text": "Before. " + " ".join(words[:13]).upper().replace(",", " --") + " after"}) == (
        'in trains: document q.jsonl:1, 14% of its n-grams, e.g. "if a train leaves the station at noon and travels at '
        'sixty miles"'
    )
    assert judge.verdict({"text": " ".join(words[:12])}) is None
    assert judge.verdict({"prompt": question, "completion": "noon"}) is not None
    assert (
        make("decontamination", against=against, part="answer").verdict({"prompt": question, "completion": "noon"})
        is None
    )


def test_short_documents_are_looked_for_whole(make: Make, tmp_path: Path, said: list[str]) -> None:
    texts = ["one two three four five six seven eight", "too short", "Who wrote the book of the nine winds anyway?"]
    judge = make("decontamination", against={"short": rows(tmp_path / "s.jsonl", texts)})
    assert said == ["decontamination: 1 documents of short are shorter than 8 words and are not looked for, 2 are"]
    assert judge.verdict({"text": "zero one two three four five six seven eight nine"}).startswith("in short: document")
    assert judge.verdict({"text": "one two three four five six seven nine"}) is None
    assert judge.verdict({"text": "This is too short to say"}) is None


def test_several_sets_and_a_plain_file(make: Make, tmp_path: Path) -> None:
    (tmp_path / "speech.txt").write_text("alpha beta gamma delta epsilon zeta eta theta iota\n", encoding="utf-8")
    against = {"speech": str(tmp_path / "speech.txt"), "rows": rows(tmp_path / "r.jsonl", ["k l m n o p q r s t u v"])}
    judge = make("decontamination", against=against, ngram=6)
    assert judge.verdict({"text": "x k l m n o p"}).startswith("in rows: document r.jsonl:1, 14%")
    assert judge.verdict({"text": "alpha beta gamma delta epsilon zeta k l m n o p q"}).startswith("in rows: ")
    found = judge.verdict({"text": "alpha beta gamma delta epsilon zeta"})
    assert found.startswith("in speech: document ") and "speech.txt, 25% of its n-grams" in found


def test_used_wrongly(make: Make, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="against"):
        make("decontamination", against={})
    with pytest.raises(ConfigError, match="against"):
        make("decontamination", against=["a.jsonl"])
    with pytest.raises(DataError, match=r"evaluation set tiny has no document of 8 words or more \(1 shorter"):
        make("decontamination", against={"tiny": rows(tmp_path / "t.jsonl", ["so short"])})
    with pytest.raises(Exception, match=r"missing\.jsonl"):
        make("decontamination", against={"gone": str(tmp_path / "missing.jsonl")})
    from distill_synthesis.filters.decontamination import Decontamination
    from distill_synthesis.filters.options import DecontaminationOptions

    unbuilt = Decontamination(DecontaminationOptions.model_validate({"against": {"a": "a.txt"}}))
    with pytest.raises(RuntimeError, match=r"call build\(ctx\) first"):
        unbuilt.verdict({"text": "a"})
