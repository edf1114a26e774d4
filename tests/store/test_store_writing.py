"""The same appends give the same bytes, however the writing was interrupted; a second writer is kept out."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from distill_core.errors import DistillError, StoreError
from distill_core.store import RowArrays, StoreMeta, StoreReader, StoreWriter, manifest, verify_store
from distill_core.store.manifest import ShardRecord


def test_a_shard_is_whole_before_its_line_is_written(
    tmp_path: Path, filled_store: Callable[..., tuple[Path, list[np.ndarray]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A line without its shard would be damage to whoever reads the store after a kill."""
    recorded: list[str] = []
    append = manifest.append_shard

    def checked(directory: Path, record: ShardRecord) -> None:
        content = (directory / record.name).read_bytes()
        assert len(content) == record.n_bytes and hashlib.sha256(content).hexdigest() == record.sha256
        recorded.append(record.name)
        append(directory, record)

    monkeypatch.setattr(manifest, "append_shard", checked)
    filled_store()
    assert recorded and recorded[0] == "shard-00000.arrow"


CAPTURE = """
import sys, time
import numpy as np
from distill_core.store import RowArrays, StoreMeta, StoreWriter, sequence_key

def rows_of(ids, number):
    generator = np.random.default_rng(number)
    n = len(ids) - 1
    support = np.argsort(generator.random((n, 200)), axis=1)[:, :16]
    return RowArrays(kind="exact", ids=support, temperatures=(1.0,), logits=generator.normal(size=(n, 16)),
                     tail=generator.normal(size=(n, 1)))

def capture(directory, pause_s=0.0, shard_sequences=4, sequences=41):
    meta = StoreMeta(vocabulary_size=200, tokenizer_fingerprint="f", teacher="t", method="topk", k=16)
    with StoreWriter(directory, meta, shard_sequences=shard_sequences) as writer:
        for number in range(sequences):
            ids = np.random.default_rng(1000 + number % 39).integers(0, 200, size=20 + number % 39 % 7)
            if not writer.done(sequence_key(ids)):
                time.sleep(pause_s)
                writer.append(ids, np.arange(len(ids) - 1), rows_of(ids, number % 39))

if __name__ == "__main__":
    print("ready", flush=True)
    capture(sys.argv[1], pause_s=float(sys.argv[2]))
"""


@pytest.fixture(scope="module")
def capture_script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("script") / "capture_rows.py"
    path.write_text(CAPTURE)
    return path


@pytest.fixture(scope="module")
def capture() -> Callable[..., None]:
    namespace: dict = {"__name__": "capture_rows"}
    exec(compile(CAPTURE, "capture_rows", "exec"), namespace)
    return namespace["capture"]


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(directory.iterdir())}


def start(script: Path, directory: Path, pause_s: float) -> subprocess.Popen[bytes]:
    process = subprocess.Popen([sys.executable, str(script), str(directory), str(pause_s)], stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline() == b"ready\n"
    return process


def kill_and_resume(script: Path, capture: Callable[..., None], tmp_path: Path, *, kills: int, seed: int) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    capture(whole)
    moments = np.random.default_rng(seed).uniform(0.0, 0.06, size=kills)
    interrupted = 0
    for moment in moments:
        process = start(script, broken, 0.003)
        time.sleep(moment)
        interrupted += process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert process.stdout is not None
        process.stdout.close()
        if (broken / "store.json").exists():
            assert verify_store(broken) == [], "a crash must never corrupt what was written"
    assert interrupted > 0
    capture(broken)
    assert contents(broken) == contents(whole)


def test_two_kills(capture_script: Path, capture: Callable[..., None], tmp_path: Path) -> None:
    kill_and_resume(capture_script, capture, tmp_path, kills=2, seed=1)


@pytest.mark.slow
def test_twelve_kills(capture_script: Path, capture: Callable[..., None], tmp_path: Path) -> None:
    kill_and_resume(capture_script, capture, tmp_path, kills=12, seed=2)


def _die_at(capture: Callable[..., None], directory: Path, call: int) -> bool:
    """Capture in a forked child that dies, as by kill -9, right before its ``call``-th fsync, rename or unlink."""
    child = os.fork()
    if child == 0:
        remaining = call

        def counted(function: Callable[..., object]) -> Callable[..., object]:
            def wrapper(*arguments: object, **options: object) -> object:
                nonlocal remaining
                remaining -= 1
                if remaining == 0:
                    os._exit(9)
                return function(*arguments, **options)

            return wrapper

        for name in ("fsync", "replace", "unlink", "ftruncate"):
            setattr(os, name, counted(getattr(os, name)))
        try:
            capture(directory, sequences=6)
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9


def test_death_before_every_file_operation(capture: Callable[..., None], tmp_path: Path) -> None:
    capture(tmp_path / "whole", sequences=6)
    expected = contents(tmp_path / "whole")
    call = 1
    while _die_at(capture, tmp_path / f"{call}", call):
        capture(tmp_path / f"{call}", sequences=6)
        assert contents(tmp_path / f"{call}") == expected, f"differs after death before operation {call}"
        call += 1
    assert call > 12, "the capture must have been interrupted at each of its file operations"


def test_a_torn_last_line_is_dropped(capture: Callable[..., None], tmp_path: Path) -> None:
    capture(tmp_path / "whole")
    expected = contents(tmp_path / "whole")
    broken = tmp_path / "broken"
    capture(broken)
    description = (broken / "store.json").read_text()
    (broken / "store.json").write_text(description.replace('"complete": true', '"complete": false'))
    lines = (broken / "shards.jsonl").read_bytes()
    (broken / "shards.jsonl").write_bytes(lines[:-40])
    (broken / ".tmp-1234-shard-00011.arrow").write_bytes(b"half")
    (broken / "shard-00011.arrow").write_bytes(b"renamed, but its line was never written")
    with pytest.raises(StoreError, match="has not finished"):
        StoreReader(broken)
    assert len(StoreReader(broken, unfinished=True)) == 36
    capture(broken)
    assert contents(broken) == expected


def test_the_missing_shard_alone_is_captured_again(
    capture: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = tmp_path / "store"
    capture(directory)
    expected = contents(directory)
    (directory / "shard-00003.arrow").unlink()
    (directory / "shard-00005.arrow").write_bytes(expected["shard-00005.arrow"][:-1])
    appended = []
    original = StoreWriter.append
    monkeypatch.setattr(StoreWriter, "append", lambda self, *a, **k: appended.append(1) or original(self, *a, **k))
    capture(directory)
    assert len(appended) == 8
    assert contents(directory) == expected
    (directory / "shard-00003.arrow").unlink()
    with pytest.raises(StoreError, match=r"shard-00003.arrow: the shard is missing, and 4 of its sequences"):
        capture(directory, sequences=5)


def test_other_meta_is_refused(capture: Callable[..., None], tmp_path: Path) -> None:
    directory = tmp_path / "store"
    capture(directory)
    before = contents(directory)
    meta = StoreReader(directory).meta
    changed = StoreMeta(**{**meta.__dict__, "teacher": "other", "k": 8})
    with pytest.raises(StoreError, match=r"teacher: 't' against 'other'; .*k: 16 against 8"):
        StoreWriter(directory, changed, shard_sequences=4)
    with pytest.raises(StoreError, match="shard_sequences: 4 against 5"):
        StoreWriter(directory, meta, shard_sequences=5)
    assert contents(directory) == before


def test_a_second_writer_is_kept_out(capture_script: Path, capture: Callable[..., None], tmp_path: Path) -> None:
    directory = tmp_path / "store"
    process = start(capture_script, directory, 5.0)
    deadline = time.monotonic() + 20
    while not (directory / "store.json").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    with pytest.raises(StoreError, match=f"process {process.pid} on"):
        capture(directory)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert (directory / ".lock").exists(), "the dead process leaves its lock file"
    capture(directory)
    assert not (directory / ".lock").exists()


def test_two_writers_of_one_process(tmp_path: Path, meta_for: Callable[..., StoreMeta]) -> None:
    first = StoreWriter(tmp_path / "s", meta_for())
    with pytest.raises(StoreError, match="this process already writes"):
        StoreWriter(tmp_path / "s", meta_for())
    first.close()
    with pytest.raises(ValueError, match="closed"):
        first.finish()
    StoreWriter(tmp_path / "s", meta_for()).finish()


def test_an_error_in_the_block_does_not_finish(tmp_path: Path, meta_for: Callable[..., StoreMeta]) -> None:
    with pytest.raises(RuntimeError), StoreWriter(tmp_path / "s", meta_for()):
        raise RuntimeError
    with pytest.raises(StoreError, match="has not finished"):
        StoreReader(tmp_path / "s")


def test_no_space_leaves_whole_shards(
    tmp_path: Path, capture: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = tmp_path / "store"
    capture(tmp_path / "whole")
    calls = 0
    original = os.fsync

    def full(descriptor: int) -> None:
        nonlocal calls
        calls += 1
        if calls == 12:
            raise OSError(28, "No space left on device")
        original(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DistillError, match=r"store/.*no space left on the device while writing [\d,]{3,} bytes"):
        capture(directory)
    monkeypatch.undo()
    assert not [name for name in contents(directory) if name.startswith(".")]
    assert verify_store(directory) == []
    capture(directory)
    assert contents(directory) == contents(tmp_path / "whole")


BAD_ROWS = {
    "NaN logits": ({"logits": [[np.nan, 0.0]]}, "rows.logits holds NaN or .inf at row 0"),
    "infinite tail": ({"tail": [[np.inf]]}, "rows.tail holds NaN"),
    "no mass": ({"logits": [[-np.inf, -np.inf]], "tail": [[-np.inf]]}, "row 0 gives probability 0"),
    "id too large": ({"ids": [[1, 50]]}, "values from 1 to 50; expected ids below the vocabulary size 50"),
    "id twice": ({"ids": [[7, 7]]}, "an id twice at row 0"),
    "too wide": ({"ids": [[1, 2, 3, 4, 5]], "logits": [[0.0] * 5]}, "5 columns; the store was made for k = 4"),
    "other temperature": ({"temperatures": (2.0,)}, "temperatures is .2.0,."),
    "wrong kind": ({"kind": "sampled"}, "kind is 'sampled'"),
    "no tail": ({"tail": None}, "need logits and tail"),
}


@pytest.mark.parametrize("name", BAD_ROWS)
def test_bad_rows_are_named_and_nothing_is_added(tmp_path: Path, meta_for: Callable[..., StoreMeta], name: str) -> None:
    changes, match = BAD_ROWS[name]
    fields = {"kind": "exact", "ids": [[1, 2]], "temperatures": (1.0,), "logits": [[0.0, 1.0]], "tail": [[0.0]]}
    fields |= changes
    arrays = {key: np.array(value) if isinstance(value, list) else value for key, value in fields.items()}
    with StoreWriter(tmp_path / "s", meta_for()) as writer, pytest.raises(ValueError, match=match):
        writer.append([1, 2], [0], RowArrays(**arrays))
    assert len(StoreReader(tmp_path / "s")) == 0


SAMPLED = {"weights": [[0.75, 0.25]], "threshold": [0.25], "entropy": [1.0]}
BAD_SAMPLES = {
    "no entropy": ({"entropy": None}, "need the exact entropy"),
    "sum": ({"weights": [[0.75, 0.3]]}, "sums to 1.05 at row 0"),
    "negative": ({"weights": [[1.25, -0.25]]}, "negative values at row 0"),
    "below c": ({"threshold": [0.5]}, "below the threshold 0.5"),
    "no c": ({"threshold": None}, "need threshold"),
    "negative entropy": ({"entropy": [-0.5]}, "entropy is negative"),
}


@pytest.mark.parametrize("name", BAD_SAMPLES)
def test_bad_samples_are_named(tmp_path: Path, meta_for: Callable[..., StoreMeta], name: str) -> None:
    changes, match = BAD_SAMPLES[name]
    fields = {name: None if value is None else np.array(value) for name, value in {**SAMPLED, **changes}.items()}
    rows = RowArrays(kind="sampled", ids=np.array([[3, 4]]), temperatures=(1.0,), **fields)
    with (
        StoreWriter(tmp_path / "s", meta_for(method="threshold")) as writer,
        pytest.raises(ValueError, match=match),
    ):
        writer.append([1, 2], [0], rows)


def test_multinomial_weights_must_be_counts(tmp_path: Path, meta_for: Callable[..., StoreMeta]) -> None:
    rows = RowArrays(
        kind="sampled",
        ids=np.array([[3, 4]]),
        temperatures=(1.0,),
        weights=np.array([[0.6, 0.4]]),
        entropy=np.array([1.0]),
    )
    with (
        StoreWriter(tmp_path / "s", meta_for(method="multinomial")) as writer,
        pytest.raises(ValueError, match="multiples of 1/k = 1/4"),
    ):
        writer.append([1, 2], [0], rows)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"k": 51}, "k is 51"),
        ({"vocabulary_size": 2**32 + 1}, "vocabulary_size"),
        ({"method": "nucleus"}, "'nucleus'"),
        ({"method": "threshold", "temperatures": (1.0, 2.0)}, "draws at one temperature"),
        ({"temperatures": (0.0,)}, "positive"),
        ({"temperatures": (1.0, 1.0)}, "twice"),
        ({"draws": 2}, "draws is 2 with method 'topk'"),
    ],
)
def test_meta_names_the_field(meta_for: Callable[..., StoreMeta], changes: dict, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        meta_for(**changes)
