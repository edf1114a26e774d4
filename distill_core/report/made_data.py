"""What was made and what was chosen, for a person to look at: samples of synthetic text, and a map of a selection."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from distill_core.funnel import text_parts
from distill_core.report.data_map import data_map

SAMPLES = 8
"""Synthetic records shown, spread evenly over the file."""

LONGEST = 2000
"""Characters of a sample's text."""

RECORDS = Path("synthesize") / "records.jsonl"
DECISIONS = Path("select") / "decisions.arrow"
HIDDEN = "hidden, mean"
"""What the table of mean hidden states says it holds (``distill_core.engine.features``)."""

REST, KEPT = "not kept", "kept"
REAL, MADE = "real, held out", "synthetic"

SYNTHESIS_MAP = "map.json"
"""Where the report stage leaves the map of real and synthetic sequences, beside the page."""


def synthetic_samples(directory: Path) -> list[dict[str, Any]]:
    """Records that the synthesizer made: ``{"number", "document", "texts": [[text, answers]], "origin"}``.

    Records without a text (images) are left out, as is a last line that is half written. ``origin`` is the record's
    provenance as JSON text. Deterministic.
    """
    path = directory / RECORDS
    if not path.is_file():
        return []
    with open(path, "rb") as file:
        count = sum(1 for _ in file)
    wanted = {round(i * (count - 1) / (SAMPLES - 1)) for i in range(SAMPLES)} if count > SAMPLES else set(range(count))
    found = []
    with open(path, "rb") as file:
        for number, line in enumerate(file):
            if number in wanted and (sample := _sample(number, line)) is not None:
                found.append(sample)
    return found


def _sample(number: int, line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None
    texts = [[text[:LONGEST], answers] for text, answers in text_parts(record)] if isinstance(record, dict) else []
    if not texts:
        return None
    origin = record.get("provenance")
    return {
        "number": number + 1,
        "document": str(record.get("document", "")),
        "texts": texts,
        "origin": "" if origin is None else json.dumps(origin, ensure_ascii=False)[:LONGEST],
    }


def selection_map(directory: Path, manifests: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any] | None:
    """A map of the pool by the mean hidden states that a selector kept on disk; None where there are none.

    Args:
        directory: of the run.
        manifests: of its stages; the selection's notes say which pool it was.
        config: the resolved run file, which may say where features lie.
    """
    notes = (manifests.get("select") or {}).get("notes") or {}
    features = _stored(_feature_root(directory, config), notes.get("pool_key"))
    path = directory / DECISIONS
    if features is None or not path.is_file():
        return None
    with pa.ipc.open_file(pa.memory_map(str(path))) as file:
        kept = file.read_all().column("kept").to_numpy(zero_copy_only=False)
    if len(kept) != len(features) or not np.isfinite(features).all():
        return None
    return data_map({REST: features[~kept], KEPT: features[kept]})


def _feature_root(directory: Path, config: Mapping[str, Any]) -> Path:
    named = (config.get("select") or {}).get("features")
    return directory / "features" if named is None else Path(str(named)).expanduser()


def _stored(root: Path, pool_key: Any) -> Any:
    """[n, D] hidden states of that pool, of the first whole table that has them."""
    for path in sorted(root.glob("*/table.json")) if isinstance(pool_key, str) else ():
        try:
            described = json.loads(path.read_text(encoding="utf-8"))
            parts, (rows, _) = described["parts"], described["shape"]
            whole = len(described["shards"]) * int(described["shard_rows"]) >= int(rows)
            if whole and parts.get("what") == HIDDEN and parts.get("data") == pool_key:
                return np.load(path.with_name("features.npy"), mmap_mode="r")
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue  # a table under way, or none
    return None


def synthesis_map(directory: Path, problems: list[str]) -> dict[str, Any] | None:
    """The map of real and synthetic sequences that the report stage made; None where there is none.

    Args:
        directory: of the run.
        problems: what cannot be read is named here.
    """
    path = directory / "report" / SYNTHESIS_MAP
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return {key: found[key] for key in ("of", "sequences", "variance", "groups")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        problems.append(f"report/{SYNTHESIS_MAP} cannot be shown: {type(error).__name__}: {error}")
        return None
