"""The data stage and the data set on disk."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from distill_core.config import DataConfig
from distill_core.engine import prepare
from distill_core.engine.data import TokenDataset, TokenSequence, collate
from distill_core.engine.prepare import prepare_data
from distill_core.engine.progress import Progress
from distill_core.errors import DataError
from distill_core.registry import Registry
from distill_core.store import sequence_key
from tests.run.test_records import EOS, Letters

QUIET = Progress(quiet=True)


class ListSource:
    rows: ClassVar[list[dict[str, Any]]] = []

    def __init__(self, options: Any) -> None: ...

    def records(self) -> Iterator[dict[str, Any]]:
        yield from self.rows

    def fingerprint(self) -> str:
        return "rows"


class NoX:
    def __init__(self, options: Any) -> None: ...

    def verdict(self, record: Mapping[str, Any]) -> str | None:
        return "has x" if "x" in record["text"] else None


@pytest.fixture
def registry() -> Registry:
    registry = Registry()
    registry.register("source", "rows", ListSource)
    registry.register("filter", "no-x", NoX)
    return registry


def make(
    rows: list[dict[str, Any]], directory: Path, registry: Registry, monkeypatch: Any, **changes: Any
) -> TokenDataset:
    monkeypatch.setattr(ListSource, "rows", rows)
    split = {"source": {"use": "rows"}, **changes.pop("split", {})}
    config = DataConfig.model_validate(
        {"train": split, "eval": split, "sequence_length_tokens": 5, "min_sequence_tokens": 2, **changes}
    )
    return prepare_data("train", config, tokenizer=Letters(), directory=directory, registry=registry, progress=QUIET)


def test_sequences_labels_documents_and_keys(tmp_path: Path, registry: Registry, monkeypatch: Any) -> None:
    rows = [{"text": "abcdefg", "document": "one"}, {"prompt": "hi", "completion": "j", "document": "two"}]
    dataset = make(rows, tmp_path, registry, monkeypatch)
    assert [s.document for s in dataset] == ["one", "one", "two"]
    assert [s.input_ids.tolist() for s in dataset] == [[97, 98, 99, 100, 101], [102, 103], [104, 105, 106, EOS]]
    assert dataset[2].labels.tolist() == [-100, -100, 106, EOS]
    assert dataset[0].labels.tolist() == dataset[0].input_ids.tolist()
    assert all(s.key == sequence_key(s.input_ids) for s in dataset)
    assert dataset[0].input_ids.dtype == dataset[2].labels.dtype == np.int32
    assert (len(dataset), dataset.n_tokens, dataset.longest_tokens) == (3, 11, 5)
    assert dataset[-1].document == "two" and len(dataset[0:2]) == 2
    for outside in (3, -4):
        with pytest.raises(IndexError):
            dataset[outside]


def test_weights_and_domains_reach_the_batch(tmp_path: Path, registry: Registry, monkeypatch: Any) -> None:
    rows = [{"text": "abc", "domain": "law"}, {"parts": [{"text": "d"}, {"text": "e", "weight": 2.0}]}]
    dataset = make(rows, tmp_path, registry, monkeypatch)
    assert [s.domain for s in dataset] == ["law", ""]
    (batch,) = dataset.batches(2)
    assert batch.domains == ("law", "")
    assert batch.weights_BT is not None and batch.weights_BT.tolist() == [[1, 1, 1], [1, 2, 2]]
    assert batch.rows().weights_N.tolist() == [1, 1, 2, 2]
    (first,) = dataset.batches(1, [0])
    assert first.weights_BT is None and batch.select_sequences(1, 2).domains == ("",)


def test_random_access_over_many_record_batches(tmp_path: Path, registry: Registry, monkeypatch: Any) -> None:
    monkeypatch.setattr(prepare, "ROWS_PER_BATCH", 3)
    rows = [{"text": chr(97 + n) * (2 + n % 4)} for n in range(11)]
    dataset = make(rows, tmp_path, registry, monkeypatch)
    assert len(dataset._batches) == 4
    for n in (10, 3, 0, 7, 2):
        assert dataset[n].input_ids.tolist() == [97 + n] * (2 + n % 4)
    assert [s.input_ids[0] for s in dataset] == list(range(97, 108))
    assert dataset[5].document == "record-6"


def test_batches_follow_the_order_asked_for(tmp_path: Path, registry: Registry, monkeypatch: Any) -> None:
    dataset = make([{"text": c * 3} for c in "abcde"], tmp_path, registry, monkeypatch)
    assert [b.input_ids_BT[:, 0].tolist() for b in dataset.batches(2)] == [[97, 98], [99, 100], [101]]
    assert [b.input_ids_BT[:, 0].tolist() for b in dataset.batches(2, [4, 0, 2])] == [[101, 97], [99]]
    with pytest.raises(ValueError, match="batch_sequences"):
        next(dataset.batches(0))


def test_padding_is_known_by_the_mask_and_never_by_the_id() -> None:
    ids = np.array([EOS, 5, EOS], dtype=np.int32)
    long = TokenSequence(ids, ids, "a", bytes(16))
    short = TokenSequence(ids[:1], ids[:1], "b", bytes(16))
    batch = collate([long, short], EOS)
    assert batch.attention_mask_BT.tolist() == [[1, 1, 1], [1, 0, 0]]
    assert batch.labels_BT.tolist() == [[EOS, 5, EOS], [EOS, -100, -100]]
    assert batch.rows().labels_N.tolist() == [5, EOS]
    assert batch.documents == ("a", "b") and str(batch.input_ids_BT.dtype) == "torch.int64"
    with pytest.raises(ValueError, match="at least one"):
        collate([], 0)


def test_two_preparations_are_equal_byte_for_byte(tmp_path: Path, registry: Registry, monkeypatch: Any) -> None:
    rows = [{"text": "abcdefg"}, {"prompt": "hi", "completion": "j"}]
    for name in ("a", "b"):
        make(rows, tmp_path / name, registry, monkeypatch)
    for file in ("tokens.arrow", "data.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == ["data.json", "tokens.arrow"]


def test_the_funnel_accounts_for_every_record(tmp_path: Path, registry: Registry, monkeypatch: Any) -> None:
    rows = [{"text": t, "document": t} for t in ("abc", "x", "axb", "a", "abcdefgh", "fghij")]
    split = {"filters": [{"use": "no-x"}, {"use": "no-x"}], "limit_sequences": 3}
    dataset = make(rows, tmp_path, registry, monkeypatch, split=split, min_sequence_tokens=4)
    summary = dataset.summary
    assert summary["records_in"] == 6
    assert summary["filters"] == [
        {"filter": "no-x", "dropped": 2, "reasons": {"has x": 2}},
        {"filter": "no-x-2", "dropped": 0, "reasons": {}},
    ]
    assert summary["dropped"] == {"fewer than 2 tokens": 1, "short remainder": 1}
    assert summary["documents"] == {"abc": 1, "abcdefgh": 1, "fghij": 1}
    assert (summary["sequences"], summary["tokens"], summary["predicted_tokens"]) == (3, 13, 10)


def test_limit_counts_sequences(tmp_path: Path, registry: Registry, monkeypatch: Any) -> None:
    rows = [{"text": "abcdefghijkl"}, {"text": "mno"}]
    assert len(make(rows, tmp_path, registry, monkeypatch, split={"limit_sequences": 2})) == 2


def test_a_document_gives_at_most_its_share(tmp_path: Path, registry: Registry, monkeypatch: Any) -> None:
    rows = [{"text": "abcdefghijklmnop", "document": "long"}, {"text": "mnop", "document": "short"}]
    dataset = make(rows, tmp_path, registry, monkeypatch, split={"document_sequences": 1})
    assert dataset.summary["documents"] == {"long": 1, "short": 1}
    assert dataset.summary["dropped"]["beyond the document's sequences"] >= 1


def test_nothing_left_says_where_it_went_and_writes_nothing(
    tmp_path: Path, registry: Registry, monkeypatch: Any
) -> None:
    rows = [{"text": "x1"}, {"text": "a"}]
    with pytest.raises(DataError, match=r"2 records read.*has x: 1.*fewer than 2 tokens: 1"):
        make(rows, tmp_path, registry, monkeypatch, split={"filters": [{"use": "no-x"}]})
    with pytest.raises(DataError, match="0 records read"):
        make([], tmp_path, registry, monkeypatch)
    assert list(tmp_path.iterdir()) == []


def test_a_bad_record_leaves_nothing_half_written(tmp_path: Path, registry: Registry, monkeypatch: Any) -> None:
    with pytest.raises(DataError, match="document bad"):
        make([{"text": "abc"}, {"text": 1, "document": "bad"}], tmp_path, registry, monkeypatch)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("field", ["text", "document", "domain"])
def test_half_of_a_surrogate_pair_is_named(tmp_path: Path, registry: Registry, monkeypatch: Any, field: str) -> None:
    """JSON may hold it, no tokenizer and no file does; the message itself can be printed."""
    row = {"text": "abc", "document": "d", "domain": "e", field: "ab\ud83d"}
    with pytest.raises(DataError, match=f"`{field}` holds half of a surrogate pair") as caught:
        make([row], tmp_path, registry, monkeypatch)
    assert str(caught.value).encode() and list(tmp_path.iterdir()) == []


def test_a_directory_without_data_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has not finished"):
        TokenDataset.open(tmp_path)
    (tmp_path / "tokens.arrow").write_bytes(b"no arrow at all")
    with pytest.raises(DataError, match="not a readable Arrow file"):
        TokenDataset.open(tmp_path)


def test_plain_progress_has_rate_and_left(monkeypatch: Any) -> None:
    clock = iter([0.0, 6.0, 6.5, 20.0, 30.0])
    monkeypatch.setattr("distill_core.engine.progress.time.monotonic", lambda: next(clock))
    progress = Progress(stream=io.StringIO())
    with progress.task("capture", 1000) as task:
        task.advance(300, note="loss 1.5")
        task.advance(1)
        task.advance(199)
    lines = progress.stream.getvalue().splitlines()
    assert lines == [
        "capture: 30 %, 300/1,000 tok, 50 tok/s, 14.0 s left  loss 1.5",
        "capture: 50 %, 500/1,000 tok, 25 tok/s, 20.0 s left",
        "capture: 500 tok in 30.0 s (16.7 tok/s)",
    ]


def test_bars_on_a_terminal_nest_and_end() -> None:
    stream = io.StringIO()
    progress = Progress(stream=stream, terminal=True)
    with progress.task("outer", 2, unit="seq") as outer:
        with pytest.raises(KeyError), progress.task("inner", None) as inner:
            inner.advance(5)
            raise KeyError
        progress.say("a [line] between")
        outer.advance(2)
    progress.say("after")
    assert "a [line] between" in stream.getvalue() and stream.getvalue().endswith("after\n")
