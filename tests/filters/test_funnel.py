"""The funnel adds up, whatever filters and transforms do and wherever a limit ends the pass."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from distill_core.config import DataConfig
from distill_core.engine.data import TokenDataset
from distill_core.engine.prepare import prepare_data
from distill_core.engine.progress import Progress
from distill_core.errors import DataError
from distill_core.filtering import FilterChain
from distill_core.funnel import EXAMPLES, MOST_KINDS, OTHER, Funnel, FunnelStep, funnel_sentence, plain_text
from distill_core.registry import Registry
from tests.run.test_records import Letters


class Holding:
    """Drops records with a letter; judges several at a time if asked to."""

    def __init__(self, letter: str, batch: int = 1) -> None:
        self.letter, self.batch_records = letter, batch
        if batch > 1:
            self.verdicts = lambda records: [self.verdict(record) for record in records]

    def verdict(self, record: Mapping[str, Any]) -> str | None:
        return f"has {self.letter}: at {record['text'].index(self.letter)}" if self.letter in record["text"] else None


def adds_up(funnel: Sequence[Mapping[str, Any]]) -> bool:
    inside = all(s["in"] + s.get("made", 0) == s["out"] + sum(s["reasons"].values()) for s in funnel)
    return inside and all(a["out"] == b["in"] for a, b in pairwise(funnel))


@pytest.mark.parametrize("batch", [1, 3, 64])
@pytest.mark.parametrize("taken", [0, 1, 5, 1000])
def test_a_chain_adds_up_wherever_its_reader_stops(batch: int, taken: int) -> None:
    rng = random.Random(0)
    rows = [{"text": "".join(rng.choices("abcdef", k=4)), "document": str(i)} for i in range(200)]
    funnel = Funnel()
    chain = FilterChain([("a", Holding("a", batch)), ("b", Holding("b")), ("c", Holding("c", batch + 1))], funnel)
    kept = [record for record, _ in zip(chain.keep(rows), range(taken), strict=False)]
    wanted = [row for row in rows if not set(row["text"]) & set("abc")]
    assert kept == wanted[:taken], "order or content changed"
    assert taken < 1000 or adds_up(funnel.plain())
    funnel.settle("not needed")
    assert adds_up(funnel.plain())
    if taken == 1000:
        assert funnel.steps[0].entered == 200 and funnel.steps[-1].left == len(wanted)
        assert funnel.steps[0].reasons == {"has a": sum("a" in row["text"] for row in rows)}


class Rows:
    def __init__(self, options: Any) -> None: ...

    def records(self) -> Iterator[dict[str, Any]]:
        for text in ("abcde", "xy", "abcdefgh", "a", "mnopq", "dd", "rstuvw"):
            yield {"text": text}

    def fingerprint(self) -> str:
        return "rows"


class NoX:
    batch_records = 2

    def __init__(self, options: Any) -> None: ...

    def verdict(self, record: Mapping[str, Any]) -> str | None:
        return self.verdicts([record])[0]

    def verdicts(self, records: Sequence[Mapping[str, Any]]) -> list[str | None]:
        return ["has x: yes" if "x" in record["text"] else None for record in records]


class TwiceOrNever:
    def __init__(self, options: Any) -> None: ...

    def transform(self, record: Mapping[str, Any]) -> list[Mapping[str, Any]]:
        return [] if record["text"].startswith("d") else [record, record]


@pytest.mark.parametrize("limit", [None, 1, 3])
def test_the_data_stage_adds_up(tmp_path: Path, limit: int | None) -> None:
    registry = Registry()
    for kind, name, made in (("source", "rows", Rows), ("filter", "no-x", NoX), ("transform", "twice", TwiceOrNever)):
        registry.register(kind, name, made)
    split = {
        "source": {"use": "rows"},
        "filters": [{"use": "no-x"}, {"use": "no-x"}],
        "transforms": [{"use": "twice"}],
        "limit_sequences": limit,
    }
    config = DataConfig.model_validate(
        {"train": split, "eval": split, "sequence_length_tokens": 5, "min_sequence_tokens": 2}
    )
    prepare_data(
        "train", config, tokenizer=Letters(), directory=tmp_path, registry=registry, progress=Progress(quiet=True)
    )
    summary = TokenDataset.open(tmp_path).summary
    funnel = summary["funnel"]
    assert [step["step"] for step in funnel] == ["no-x", "no-x-2", "twice", "sequences"]
    assert adds_up(funnel) and funnel[0]["in"] == summary["records_in"]
    if limit is None:
        assert funnel[0] == {
            "step": "no-x",
            "in": 7,
            "out": 6,
            "reasons": {"has x": 1},
            "examples": {"has x": [{"document": "record-2", "detail": "yes", "text": "xy"}]},
        }
        assert funnel[2]["made"] == 5 and funnel[2]["reasons"] == {"nothing made of it": 1}
        assert funnel[3]["reasons"] == {"fewer than 2 tokens": 2}
    else:
        assert summary["sequences"] == limit
        assert funnel[-1]["reasons"].get("not needed for limit_sequences", 0) > 0


def test_examples_are_few_short_and_silent_where_private() -> None:
    step = FunnelStep("s")
    for index in range(10):
        step.drop("long: " + "x" * 500, {"text": "y" * 500, "document": index})
    step.drop("plain", {"messages": [{"role": "user", "content": "hello"}]}, private=True)
    shown = step.plain()["examples"]
    assert len(shown["long"]) == EXAMPLES and len(shown["long"][0]["text"]) == 240
    assert len(shown["long"][0]["detail"]) == 200 and shown["plain"] == [{"document": "", "detail": ""}]
    for index in range(2 * MOST_KINDS):
        step.drop(f"reason {index}")
    assert len(step.reasons) == MOST_KINDS + 1 and step.reasons[OTHER] == MOST_KINDS + 2
    assert step.dropped == step.entered == 11 + 2 * MOST_KINDS


def test_a_filter_with_too_few_verdicts_is_refused() -> None:
    class Forgetful:
        batch_records = 4

        def verdicts(self, records: Sequence[Mapping[str, Any]]) -> list[str | None]:
            return [None]

    chain = FilterChain([("forgetful", Forgetful())], Funnel())
    with pytest.raises(DataError, match="forgetful gave 1 verdicts on 2 records"):
        list(chain.keep([{"text": "a"}, {"text": "b"}]))


def test_what_a_record_says() -> None:
    assert plain_text({"parts": [{"text": "a"}, {"text": "b", "predict": False}]}) == "a\nb"
    assert plain_text({"messages": [{"role": "user", "content": 3}, "x"]}) == ""
    assert plain_text({"text": None}) == plain_text({}) == ""
    assert funnel_sentence([{"step": "s", "in": 1, "out": 1, "reasons": {}}]) == ""
