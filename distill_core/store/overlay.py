"""A store that brings another up to date: it holds the rows that a new teacher changed and names the store beneath.

``overlay.json`` beside ``store.json`` names the base by its relative path and the checksum of its description, which
itself holds the checksum of every shard. The base is never written to. Reading prefers the newest layer.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from distill_core.errors import StoreError
from distill_core.files import write_json
from distill_core.store.manifest import DESCRIPTION
from distill_core.store.meta import StoreMeta
from distill_core.store.packed import PackedRows
from distill_core.store.reader import StoreReader

OVERLAY = "overlay.json"

MAY_DIFFER = ("teacher", "revision", "dtype")
"""Fields of the description in which a layer may differ from the one beneath."""


@dataclass(frozen=True)
class Overlay:
    """What ``overlay.json`` says.

    Args:
        base: path of the store beneath, relative to this one.
        base_sha256: of its description.
        bound_nat: rows whose distribution moved further were labelled anew.
        probe_share: share of the sequences that the new teacher was asked about.
    """

    base: str
    base_sha256: str
    bound_nat: float
    probe_share: float


def description_sha256(directory: Path) -> str:
    return hashlib.sha256((directory / DESCRIPTION).read_bytes()).hexdigest()


def write_overlay(directory: Path, base: Path, *, bound_nat: float, probe_share: float) -> None:
    """Name the base of a new overlay, or check that an interrupted one was the same.

    Raises:
        StoreError: the directory holds an update of another store, or by other rules.
    """
    relative = os.path.relpath(base.resolve(), directory.resolve())
    wanted = Overlay(relative, description_sha256(base), bound_nat, probe_share)
    found = read_overlay(directory)
    if found is None:
        write_json(directory / OVERLAY, asdict(wanted))
    elif found != wanted:
        changed = [name for name, value in asdict(wanted).items() if getattr(found, name) != value]
        raise StoreError(
            f"{directory}: holds another update ({', '.join(changed)} changed): update into another directory, or "
            "delete this one"
        )


def read_overlay(directory: Path) -> Overlay | None:
    """None where the store stands on its own.

    Raises:
        StoreError: the file cannot be read.
    """
    path = directory / OVERLAY
    if not path.is_file():
        return None
    try:
        return Overlay(**json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise StoreError(f"{path}: cannot be read ({error}): update again") from error


def check_base(base: StoreMeta, new: StoreMeta, *, name: str) -> None:
    """Refuse to lay rows over a store of another vocabulary or form.

    Raises:
        StoreError: saying what differs.
    """
    differing = [sentence for sentence in base.differences(new) if sentence.partition(":")[0] not in MAY_DIFFER]
    if differing:
        raise StoreError(
            f"{name}: cannot be brought up to date, it was captured otherwise (there against asked): "
            + "; ".join(differing)
            + ". Only the teacher's weights may change: the same tokenizer, method, k, temperatures, draws and seed"
        )


class LayeredReader:
    """A store with the stores beneath it, newest first. Most stores have one layer.

    Raises:
        StoreError: as :class:`StoreReader`; a store beneath is missing or was changed.
    """

    def __init__(self, directory: Path | str, *, checksums: bool = True) -> None:
        self.layers = [StoreReader(directory, checksums=checksums)]
        while (overlay := read_overlay(self.layers[-1].directory)) is not None:
            base = (self.layers[-1].directory / overlay.base).resolve()
            if not (base / DESCRIPTION).is_file():
                raise StoreError(f"{self.layers[-1].directory}: the store beneath it, {base}, is not there")
            if description_sha256(base) != overlay.base_sha256:
                raise StoreError(
                    f"{self.layers[-1].directory}: the store beneath it, {base}, was changed since: update again"
                )
            layer = StoreReader(base, checksums=checksums)
            check_base(layer.meta, self.meta, name=str(base))
            self.layers.append(layer)

    @property
    def meta(self) -> StoreMeta:
        """Of the newest layer."""
        return self.layers[0].meta

    def __len__(self) -> int:
        """Number of stored sequences: those of the lowest layer, which every layer above holds a part of."""
        return len(self.layers[-1])

    def packed(
        self, input_ids: ArrayLike, positions: NDArray[np.int64], *, draw: int = 0
    ) -> list[tuple[PackedRows, NDArray[np.int64]]]:
        """The rows at rising positions, each from the newest layer that has it, with their places among those asked.

        Raises:
            StoreError: no layer has a row there.
        """
        if len(self.layers) == 1:
            return [(self.layers[0].packed(input_ids, positions, draw=draw), np.arange(len(positions)))]
        open_N = np.ones(len(positions), dtype=bool)
        parts = []
        for layer in self.layers[:-1]:
            held = layer.held_positions(input_ids)
            here_N = open_N & np.isin(positions, held)
            if here_N.any():
                parts.append((layer.packed(input_ids, positions[here_N], draw=draw), np.flatnonzero(here_N)))
                open_N &= ~here_N
        if open_N.any():
            part = self.layers[-1].packed(input_ids, positions[open_N], draw=draw)
            parts.append((part, np.flatnonzero(open_N)))
        return parts
