"""What a store directory holds: ``store.json`` (description and state) and ``shards.jsonl`` (a line per whole shard).

A shard counts once its line is there. Lines are appended with fsync after the shard's rename, so a crash leaves at
most a shard without a line, or a line without its end: both are dropped on resume.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from distill_core.errors import StoreError
from distill_core.files import append_line, atomic_write_bytes, write_json
from distill_core.store.keys import KEY_BYTES
from distill_core.store.meta import StoreMeta

FORMAT = "distill-core-store"
DESCRIPTION = "store.json"
SHARDS = "shards.jsonl"


@dataclass(frozen=True)
class ShardRecord:
    """One line of ``shards.jsonl``.

    Args:
        name: file name.
        sha256: of the whole file, hexadecimal.
        n_bytes: its size.
        n_sequences, n_tokens, n_rows: what it holds.
        keys: keys of its sequences in order, hexadecimal, one after the other.
    """

    name: str
    sha256: str
    n_bytes: int
    n_sequences: int
    n_tokens: int
    n_rows: int
    keys: str

    def sequence_keys(self) -> list[bytes]:
        joined = bytes.fromhex(self.keys)
        return [joined[start : start + KEY_BYTES] for start in range(0, len(joined), KEY_BYTES)]


@dataclass(frozen=True)
class Manifest:
    """State of a store directory."""

    meta: StoreMeta
    shard_sequences: int
    complete: bool
    shards: tuple[ShardRecord, ...]

    @property
    def n_sequences(self) -> int:
        return sum(shard.n_sequences for shard in self.shards)

    @property
    def n_tokens(self) -> int:
        return sum(shard.n_tokens for shard in self.shards)

    @property
    def n_rows(self) -> int:
        return sum(shard.n_rows for shard in self.shards)


def exists(directory: Path) -> bool:
    return (directory / DESCRIPTION).is_file()


def write_description(directory: Path, manifest: Manifest) -> None:
    """Write ``store.json``; with the totals and the checksum of ``shards.jsonl`` if the store is complete."""
    content: dict[str, Any] = {
        "format": FORMAT,
        "meta": manifest.meta.to_json(),
        "shard_sequences": manifest.shard_sequences,
        "complete": manifest.complete,
    }
    if manifest.complete:
        lines = directory / SHARDS
        content |= {
            "n_sequences": manifest.n_sequences,
            "n_tokens": manifest.n_tokens,
            "n_rows": manifest.n_rows,
            "shards_sha256": hashlib.sha256(lines.read_bytes() if lines.exists() else b"").hexdigest(),
        }
    write_json(directory / DESCRIPTION, content)


def append_shard(directory: Path, record: ShardRecord) -> None:
    append_line(directory / SHARDS, json.dumps(asdict(record), separators=(",", ":")))


def rewrite_shards(directory: Path, shards: tuple[ShardRecord, ...]) -> None:
    lines = [json.dumps(asdict(record), separators=(",", ":")) + "\n" for record in shards]
    atomic_write_bytes(directory / SHARDS, "".join(lines).encode("utf-8"))


def read_manifest(directory: Path) -> Manifest:
    """Read the state of a store; the unfinished last line of an interrupted capture is dropped.

    Raises:
        StoreError: not a store, another version of the format, or damaged.
    """
    path = directory / DESCRIPTION
    if not path.is_file():
        raise StoreError(
            f"{directory}: not a store of teacher signals (no {DESCRIPTION}); expected the directory of a capture"
        )
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != FORMAT:
            raise ValueError(f"format is {content['format']!r}")
        meta_json, shard_sequences = content["meta"], int(content["shard_sequences"])
        complete = bool(content["complete"])
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{path}: cannot be read as the description of a store ({error})") from error
    meta = StoreMeta.from_json(meta_json, source=str(path))
    lines = directory / SHARDS
    raw = lines.read_bytes() if lines.is_file() else b""
    if complete and hashlib.sha256(raw).hexdigest() != content.get("shards_sha256"):
        raise StoreError(f"{lines}: checksum differs from the one in {DESCRIPTION}: restore the file, or capture again")
    return Manifest(meta, shard_sequences, complete, tuple(_shard_records(lines, raw)))


def _shard_records(path: Path, raw: bytes) -> list[ShardRecord]:
    records = []
    for number, line in enumerate(raw.split(b"\n")[:-1], start=1):
        try:
            records.append(ShardRecord(**json.loads(line)))
        except (ValueError, TypeError) as error:
            raise StoreError(
                f"{path}, line {number}: cannot be read ({error}): restore it, or capture again"
            ) from error
    return records
