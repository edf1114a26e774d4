"""verify, info, merge and export, from Python and from the command line; damage is found and named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas
import pytest
from typer.testing import CliRunner

from distill_core.cli.store import app
from distill_core.errors import DistillError, StoreError
from distill_core.store import StoreReader, StoreWriter, export_parquet, merge_stores, store_info, verify_store

Fill = Callable[..., tuple[Path, list[np.ndarray]]]


def flip(path: Path, offset: int) -> None:
    content = bytearray(path.read_bytes())
    content[offset] ^= 0x90
    path.write_bytes(bytes(content))


def test_any_flipped_byte_is_found_and_named(filled_store: Fill) -> None:
    directory, sequences = filled_store(n=4, shard_sequences=2)
    path = directory / "shard-00001.arrow"
    whole = path.read_bytes()
    assert verify_store(directory) == []
    for offset in [*np.random.default_rng(0).integers(0, len(whole), size=40).tolist(), 0, len(whole) - 1]:
        flip(path, offset)
        with pytest.raises(StoreError, match=r"shard-00001.arrow: .*checksum.*distill store verify.*delete"):
            StoreReader(directory).rows(sequences[3])
        assert len(StoreReader(directory).rows(sequences[0])), "the other shard still serves"
        [problem] = verify_store(directory)
        assert "shard-00001.arrow" in problem
        path.write_bytes(whole)
    assert verify_store(directory) == []


@pytest.mark.parametrize("length", [0, 7, -1, None])
def test_truncated_or_missing_shard(filled_store: Fill, length: int | None) -> None:
    directory, sequences = filled_store(n=4, shard_sequences=2)
    path = directory / "shard-00000.arrow"
    if length is None:
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(StoreError, match=r"shard-00000.arrow: the shard is damaged \((it has|the file is missing)"):
        StoreReader(directory, checksums=False).rows(sequences[0])
    assert len(verify_store(directory)) == 1


def test_unchecked_damage_is_still_a_store_error_or_other_numbers(filled_store: Fill) -> None:
    """Without checksums a flipped byte may go unseen, but never ends in anything but rows or a StoreError."""
    directory, sequences = filled_store(n=2, shard_sequences=2)
    path = directory / "shard-00000.arrow"
    whole = path.read_bytes()
    names = [whole.index(name) + 1 for name in (b"n_rows", b"ids", b"tail")]  # a column of another name
    for offset in [*range(0, len(whole), 97), *names]:
        flip(path, offset)
        try:
            StoreReader(directory, checksums=False).rows(sequences[1])
        except StoreError as error:
            assert "shard-00000.arrow" in str(error) or "neither stored" in str(error)
        path.write_bytes(whole)


def test_damaged_description(filled_store: Fill, tmp_path: Path) -> None:
    directory, _ = filled_store()
    text = (directory / "store.json").read_text()
    for broken, match in (
        (text[:-20], "cannot be read as the description"),
        (text.replace("distill-core-store", "something"), "format is 'something'"),
        (text.replace('"schema_version": 2', '"schema_version": 99'), "schema version 99"),
        (text.replace('"k": 4', '"k": -4'), "k is -4"),
    ):
        (directory / "store.json").write_text(broken)
        with pytest.raises(StoreError, match=match):
            StoreReader(directory)
    (directory / "store.json").write_text(text)
    flip(directory / "shards.jsonl", 30)
    with pytest.raises(StoreError, match=r"shards.jsonl: checksum differs"):
        StoreReader(directory)
    with pytest.raises(StoreError, match="not a store"):
        StoreReader(tmp_path / "nowhere")


def test_verify_command(filled_store: Fill) -> None:
    directory, _ = filled_store()
    result = CliRunner().invoke(app, ["verify", str(directory)])
    assert result.exit_code == 0 and "3 shards checked, 0 damaged" in result.output
    flip(directory / "shard-00002.arrow", 100)
    result = CliRunner().invoke(app, ["verify", str(directory), "--remove-damaged"])
    assert result.exit_code == 2 and "shard-00002.arrow" in result.output and "1 damaged, removed" in result.output
    assert not (directory / "shard-00002.arrow").exists()


def test_info(filled_store: Fill) -> None:
    directory, sequences = filled_store(method="threshold")
    found = store_info(directory)
    n_bytes = sum(path.stat().st_size for path in directory.iterdir())
    assert (found.n_shards, found.n_sequences, found.n_bytes) == (3, 7, n_bytes)
    assert found.n_tokens == sum(map(len, sequences)) and found.n_rows == found.n_tokens - 7
    assert sum(found.split_per_row.values()) == pytest.approx(found.bytes_per_row) == n_bytes / found.n_rows
    result = CliRunner().invoke(app, ["info", str(directory), "--json"])
    content = json.loads(result.output)
    assert content["bytes_per_row"] == found.bytes_per_row and content["meta"]["error_nat"] == 0.0078125
    shown = CliRunner().invoke(app, ["info", str(directory)]).output
    for words in ("threshold, k = 4", "0.0078125 nat", "entropy", "all files", f"{found.bytes_per_row:.2f} B"):
        assert words in shown


def test_merge(filled_store: Fill, tmp_path: Path) -> None:
    one, first = filled_store("one", seed=1)
    two, second = filled_store("two", seed=2)
    both = StoreReader(one)
    with StoreWriter(two, both.meta, shard_sequences=3) as writer:
        writer.append_encoded(both.encoded(2))
    output = tmp_path / "both"
    result = CliRunner().invoke(app, ["merge", str(one), str(two), "--output", str(output)])
    assert result.exit_code == 0 and "14 sequences from 2 stores" in result.output
    merged = StoreReader(output)
    assert [merged.tokens(i).tolist() for i in range(14)] == [ids.tolist() for ids in first + second]
    for source, sequences in ((one, first), (two, second)):
        reader = StoreReader(source)
        for ids in sequences:
            assert np.array_equal(reader.rows(ids).logits, merged.rows(ids).logits)
    assert verify_store(output) == []


def test_merge_refuses(filled_store: Fill, tmp_path: Path) -> None:
    one, _ = filled_store("one")
    other, _ = filled_store("other", teacher="another")
    with pytest.raises(StoreError, match="teacher: 'tiny' against 'another'"):
        merge_stores([one, other], tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(StoreError, match="one of the stores to merge"):
        merge_stores([one, other], one)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "note.txt").write_text("x")
    with pytest.raises(StoreError, match="not empty"):
        merge_stores([one], tmp_path / "full")


def test_export_exact(filled_store: Fill, tmp_path: Path) -> None:
    directory, sequences = filled_store(temperatures=(2.0, 1.0))
    path = tmp_path / "rows.parquet"
    result = CliRunner().invoke(app, ["export", str(directory), "--parquet", str(path)])
    table = pandas.read_parquet(path)
    assert result.exit_code == 0 and f"{len(table):,} lines" in result.output
    assert len(table) == sum(len(ids) - 1 for ids in sequences)
    part = table[table["sequence"] == 2]
    rows = StoreReader(directory).rows(sequences[2])
    assert part["token"].tolist() == sequences[2][:-1].tolist()
    assert part["next_token"].tolist() == sequences[2][1:].tolist()
    for suffix, temperature in (("", 2.0), ("_1", 1.0)):
        logp, tail = rows.log_probs(temperature)
        assert np.allclose(np.stack(part[f"logprobs{suffix}"]), logp, atol=1e-5)
        assert np.allclose(part[f"tail_logprob{suffix}"], tail, atol=1e-5)
    assert np.array_equal(np.stack(part["ids"]), rows.ids)


@pytest.mark.parametrize("method", ["threshold", "multinomial"])
def test_export_sampled(filled_store: Fill, tmp_path: Path, method: str) -> None:
    directory, sequences = filled_store(method=method, draws=2, k=6)
    export_parquet(directory, tmp_path / "rows.parquet")
    table = pandas.read_parquet(tmp_path / "rows.parquet")
    assert sorted(set(table["draw"])) == [0, 1] and ("threshold" in table) == (method == "threshold")
    assert np.allclose([sum(weights) for weights in table["weights"]], 1.0, atol=1e-6)
    rows = StoreReader(directory).rows(sequences[1], draw=1)
    part = table[(table["sequence"] == 1) & (table["draw"] == 1)]
    assert [ids.tolist() for ids in part["ids"]] == [row[row >= 0].tolist() for row in rows.ids]
    assert np.allclose(part["entropy"], rows.entropy)


def test_export_refuses_a_missing_directory(filled_store: Fill, tmp_path: Path) -> None:
    directory, _ = filled_store()
    with pytest.raises(DistillError, match="does not exist"):
        export_parquet(directory, tmp_path / "no" / "rows.parquet")
    with pytest.raises(StoreError, match="in the store itself"):
        export_parquet(directory, directory / "rows.parquet")
