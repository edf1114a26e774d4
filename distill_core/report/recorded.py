"""What the checks need and no single file says: overlap of the splits, other seeds of the same run file."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

EXAMPLES = 5
NUMBERED = re.compile(r"record-\d+")
"""A document id that the data stage made up from a record's number: it says nothing about what the record is."""

MOST_SIBLINGS = 200
"""Directories beside a run that are looked into."""


def overlap(directory: Path) -> dict[str, Any] | None:
    """How many held-out sequences and documents are in the training data; None where one of the two is missing.

    Sequences are compared by their content key (a hash of their token ids), documents by their id. Where sequences were
    selected, the selected ones count.
    """
    trained = next(
        (path for path in (directory / "select", directory / "data" / "train") if (path / "tokens.arrow").is_file()),
        None,
    )
    held_out = directory / "data" / "eval"
    if trained is None or not (held_out / "tokens.arrow").is_file():
        return None
    theirs = {key: document for key, document in _sequences(trained)}
    documents = set(theirs.values())
    shared, total = 0, 0
    both: dict[str, bool] = {}
    examples: list[dict[str, str]] = []
    for key, document in _sequences(held_out):
        total += 1
        if key in theirs:
            shared += 1
            if len(examples) < EXAMPLES:
                examples.append({"held_out": document, "training": theirs[key]})
        if document in documents and not NUMBERED.fullmatch(document):
            both[document] = True
    return {
        "sequences": shared,
        "held_out_sequences": total,
        "examples": examples,
        "documents": len(both),
        "document_examples": list(both)[:EXAMPLES],
    }


def tokens_digest(directory: Path) -> str:
    """Hash of all sequences of a data directory in their order; empty where there are none."""
    if not (directory / "tokens.arrow").is_file():
        return ""
    state = hashlib.sha256()
    for key, document in _sequences(directory):
        state.update(key + document.encode("utf-8", errors="surrogatepass") + b"\0")
    return state.hexdigest()


def _sequences(directory: Path) -> Iterator[tuple[bytes, str]]:
    import pyarrow as pa

    with pa.memory_map(str(directory / "tokens.arrow")) as file:
        reader = pa.ipc.open_file(file)
        for index in range(reader.num_record_batches):
            batch = reader.get_batch(index)
            yield from zip(batch.column("key").to_pylist(), batch.column("document").to_pylist(), strict=True)


def recipe(config: Mapping[str, Any]) -> str:
    """A run file but for its seed, name, directory and report: equal for runs that differ in the seed alone.

    >>> recipe({"name": "a", "seed": 1, "train": {}}) == recipe({"name": "b", "seed": 2, "train": {}})
    True
    """
    kept = {key: value for key, value in config.items() if key not in ("seed", "name", "output_dir", "report")}
    return json.dumps(kept, sort_keys=True, default=str)


def siblings(directory: Path, config: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Runs beside this one with the same run file but another seed: their directory, seed and the student's figures."""
    found: list[dict[str, Any]] = []
    if "seed" not in config or "train" not in config:
        return found
    own, parent = directory.resolve(), directory.resolve().parent
    for path in sorted(parent.glob("*/run.yaml"))[:MOST_SIBLINGS]:
        if path.parent == own:
            continue
        try:
            other = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, yaml.YAMLError):
            continue
        if isinstance(other, dict) and recipe(other) == recipe(config) and other.get("seed") != config["seed"]:
            found.append({"run": path.parent.name, "seed": other.get("seed"), "figures": _figures(path.parent)})
    return found


def _figures(directory: Path) -> dict[str, Any]:
    try:
        results = json.loads((directory / "evaluate" / "results.json").read_text(encoding="utf-8"))
        student = next(model for model in results["models"].values() if model["role"] != "teacher")
        return {name: metric["value"] for name, metric in student["metrics"].items() if metric["primary"]}
    except (OSError, ValueError, KeyError, TypeError, StopIteration):
        return {}


def replaced_seeds(directory: Path) -> list[Any]:
    """Seeds of trainings that were replaced in this directory and differed in the seed alone."""
    found: list[Any] = []
    for path in sorted(directory.glob("stale/**/manifest.json")):
        try:
            old = json.loads(path.read_text(encoding="utf-8"))
            stage = str(old["stage"])
            if not stage.startswith("train:"):
                continue
            place = directory / stage.replace(":", "/") / "manifest.json"
            new = json.loads(place.read_text(encoding="utf-8"))
            before, now = old["parts"], new["parts"]
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue
        changed = {
            key for key in {*before, *now} if before.get(key) != now.get(key) and not key.startswith("output of ")
        }
        if changed == {"seed"} and before["seed"] not in found:
            found.append(before["seed"])
    return found
