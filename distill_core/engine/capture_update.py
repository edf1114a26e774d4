"""A new revision of the teacher labels anew only what it changes.

Legend: N rows, K support size.

For every sequence asked about, the new teacher gives its exact probabilities on the *old* support; the row moved by
``KL(new || old)`` on those K tokens and the rest, nat. Rows beyond the bound are captured anew, into an overlay that
leaves the old store as it is. The rest keeps its label, and that divergence is its error.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distill_core.config import CaptureConfig
from distill_core.engine.capture import batches_of, by_sequence, row_arrays, store_meta
from distill_core.engine.data import TokenDataset, TokenSequence, collate
from distill_core.engine.progress import Progress
from distill_core.engine.stored import StoredSignals
from distill_core.errors import DataError, SignalError
from distill_core.files import append_line, atomic_write_bytes, write_json
from distill_core.store import RowArrays, StoreWriter
from distill_core.store.overlay import check_base, write_overlay
from distill_core.types import Needs, RowTarget, SparseSpec

if TYPE_CHECKING:
    from distill_core.interfaces import Teacher

JOURNAL = "update.jsonl"
SUMMARY = "update.json"


@dataclass(frozen=True)
class UpdateResult:
    """What an update did.

    Args:
        sequences, rows: of the data, each sequence once.
        asked_rows: rows the new teacher was asked about.
        relabelled_rows: rows that moved beyond the bound and were captured anew.
        bytes_written: of the overlay's shards.
        base_bytes: of the shards of the store beneath.
        kept_error_nat: mean KL(new || old) over the rows that were asked about and kept their label; 0 without any.
        largest_kept_nat: the largest of those.
        moved_nat: mean KL(new || old) over all rows asked about: what the labels of sequences not asked about are
            expected to be wrong by. None: none were asked.
        moved_standard_error_nat: of that mean, clustered by sequence.
        seconds: wall-clock time of this call.
    """

    sequences: int
    rows: int
    asked_rows: int
    relabelled_rows: int
    bytes_written: int
    base_bytes: int
    kept_error_nat: float
    largest_kept_nat: float
    moved_nat: float | None
    moved_standard_error_nat: float | None
    seconds: float

    @property
    def relabelled_share(self) -> float:
        return self.relabelled_rows / max(1, self.rows)

    def sentence(self) -> str:
        """For messages."""
        text = (
            f"{self.relabelled_rows} of {self.rows} rows labelled anew ({self.relabelled_share:.1%}), "
            f"{self.bytes_written:,} bytes written beside {self.base_bytes:,}; rows asked about that kept their label "
            f"are {self.kept_error_nat:.4f} nat off on average, {self.largest_kept_nat:.4f} at most"
        )
        if self.asked_rows < self.rows and self.moved_nat is not None:
            text += (
                f"; {self.rows - self.asked_rows} rows were not asked about and are expected to be "
                f"{self.moved_nat:.4f} nat off (standard error {self.moved_standard_error_nat:.4f})"
            )
        return text


def update_capture(
    teacher: Teacher,
    dataset: TokenDataset | Sequence[TokenSequence],
    config: CaptureConfig,
    directory: Path | str,
    *,
    seed: int = 0,
    progress: Progress | None = None,
) -> UpdateResult:
    """Bring the store ``config.update.base`` up to date with a new teacher; resumes what is there.

    Args:
        teacher: the new revision.
        dataset: the sequences of the old capture.
        config: as the old capture's, with ``update``.
        directory: where the overlay is or shall be.
        seed: as the old capture's.
        progress: shows tokens per second; default: nothing is shown.

    Raises:
        StoreError: the base is of another tokenizer, method, k or temperatures, or lacks a sequence of the data.
        SignalError: the teacher cannot answer on given ids, or the base is a multinomial sample, which has no exact
            part to compare with.
    """
    started_s = time.monotonic()
    assert config.update is not None
    if not len(dataset):
        raise DataError("the data set to update holds no sequences: look at its filters and min_sequence_tokens")
    if config.method == "multinomial":
        raise SignalError(
            "a multinomial sample has no exact part that a new teacher could be compared with: capture it again, or "
            "use method: topk or threshold"
        )
    base = StoredSignals(Path(config.update.base).expanduser())
    meta = store_meta(teacher, config, seed=seed)
    check_base(base.meta, meta, name=str(base.directory))
    directory = Path(directory)
    progress = Progress(quiet=True) if progress is None else progress
    asks = _Asking(teacher, base, SparseSpec(config.method, config.k, meta.temperatures, meta.seed, config.draws))
    with StoreWriter(directory, meta, shard_sequences=config.shard_sequences) as writer:
        write_overlay(
            directory, base.directory, bound_nat=config.update.bound_nat, probe_share=config.update.probe_share
        )
        chunks = list(_chunks(dataset, config.shard_sequences))
        journal = _Journal(directory / JOURNAL, writer)
        with progress.task(f"update {config.name}", sum(len(s) for c in chunks for s in c), unit="tok") as task:
            for number, chunk in enumerate(chunks):
                if number not in journal.lines:
                    probed = [s for s in chunk if _probed(s.key, meta.teacher, config.update.probe_share)]
                    found = asks.moved(probed, config.update.bound_nat, config.batch_tokens)
                    for sequence, positions, draws in found.anew:
                        writer.append(sequence.input_ids, positions, draws)
                    journal.append(number, {**found.figures(), "rows": sum(_n_rows(s) for s in chunk)})
                task.advance(sum(len(s) for s in chunk))
        journal.finish()
    result = _summary(journal.lines, sum(map(len, chunks)), directory, base, time.monotonic() - started_s)
    write_json(directory / SUMMARY, {k: v for k, v in asdict(result).items() if k != "seconds"})
    return result


def _chunks(dataset: Any, size: int) -> Iterator[list[TokenSequence]]:
    seen: set[bytes] = set()
    chunk: list[TokenSequence] = []
    for index in range(len(dataset)):
        sequence = dataset[index]
        if sequence.key in seen:
            continue
        seen.add(sequence.key)
        chunk.append(sequence)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _n_rows(sequence: TokenSequence) -> int:
    return int((sequence.labels[1:] != -100).sum())


def _probed(key: bytes, teacher: str, share: float) -> bool:
    """By content and revision: a new revision probes other sequences, a resumed update the same."""
    digest = hashlib.blake2b(key + teacher.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") < share * 2.0**64


@dataclass(frozen=True)
class _Found:
    """What one chunk gave: sequences to label anew, and the divergences of their rows."""

    anew: list[tuple[TokenSequence, NDArray[np.int64], list[RowArrays]]]
    moved: list[NDArray[np.float64]]
    bound_nat: float

    def figures(self) -> dict[str, Any]:
        all_N = np.concatenate([np.empty(0), *self.moved])
        kept_N = all_N[all_N <= self.bound_nat]
        return {
            "keys": [sequence.key.hex() for sequence, _, _ in self.anew],
            "asked": int(all_N.size),
            "kept": int(kept_N.size),
            "kept_sum": math.fsum(kept_N),
            "kept_largest": float(kept_N.max(initial=0.0)),
            "by_sequence": [[math.fsum(one_N), int(one_N.size)] for one_N in self.moved],
        }


class _Asking:
    """Asks the new teacher, first on the old support, then for what moved."""

    def __init__(self, teacher: Teacher, base: StoredSignals, spec: SparseSpec) -> None:
        self.teacher, self.base, self.spec = teacher, base, spec
        self.kind = base.meta.kind

    def moved(self, sequences: Sequence[TokenSequence], bound_nat: float, batch_tokens: int) -> _Found:
        """Rows of each sequence beyond the bound with their new labels, in the order of the sequences."""
        anew: dict[int, Any] = {}
        moved: dict[int, NDArray[np.float64]] = {}
        for indices in batches_of([len(sequence) for sequence in sequences], batch_tokens):
            chosen = [sequences[index] for index in indices]
            moved_N = self._divergence(chosen)
            beyond_N = moved_N > bound_nat
            cuts = list(by_sequence(collate(chosen)))
            draws = self._labels(chosen) if bool(beyond_N.any()) else []
            for index, (cut, positions_n) in zip(indices, cuts, strict=True):
                moved[index] = moved_N[cut]
                keep_n = beyond_N[cut]
                if keep_n.any():
                    rows = [draw[cut][np.flatnonzero(keep_n)] for draw in draws]
                    anew[index] = (sequences[index], positions_n[keep_n], rows)
        ordered = [anew[index] for index in sorted(anew)]
        return _Found(ordered, [moved[index] for index in sorted(moved)], bound_nat)

    def _divergence(self, sequences: Sequence[TokenSequence]) -> NDArray[np.float64]:
        """[N] the largest KL(new || old) over the captured temperatures, nat."""
        batch = collate(sequences)
        temperatures = self.spec.temperatures
        needs = Needs(frozenset({"targets"}), targets=(self.kind,), temperatures=temperatures)
        stored = self.base.signals(batch, needs).target
        assert stored is not None
        old = stored.head()
        exact = Needs(frozenset({"targets"}), targets=("exact",), temperatures=temperatures)
        spec = SparseSpec("topk", old.ids_NK.shape[1], temperatures, ids_NK=old.ids_NK)
        new = self.teacher.signals(batch, exact, spec).target
        if new is None or not torch.equal(new.ids_NK.cpu(), old.ids_NK.cpu()):
            raise SignalError(
                f"the teacher {self.teacher.identity()} does not answer on given token ids, so what it changed is not "
                "known: capture with it anew, without update"
            )
        moved_NM = torch.stack([divergence(new, old, temperature) for temperature in temperatures], dim=1)
        largest_N: NDArray[np.float64] = moved_NM.amax(dim=1).cpu().numpy()
        return largest_N

    def _labels(self, sequences: Sequence[TokenSequence]) -> list[RowArrays]:
        """The new labels of a whole batch, one per draw."""
        needs = Needs(frozenset({"targets"}), targets=(self.kind,), temperatures=self.spec.temperatures)
        signals = self.teacher.signals(collate(sequences), needs, self.spec)
        targets = [signals.target] if self.spec.draws == 1 else list(signals.extra.get("draws", ()))
        return [row_arrays(target) for target in targets if target is not None]


def divergence(new: RowTarget, old: RowTarget, temperature: float) -> Tensor:
    """[N] ``KL(new || old)`` on the old support and the rest, float64, nat; at least 0.

    A lower bound of the divergence over the whole vocabulary: what moved inside the rest is not seen.
    """
    new_NK1, old_NK1 = (target.log_probs(temperature).double() for target in (new, old))
    term_NK1 = torch.where(torch.isneginf(new_NK1), 0.0, new_NK1.exp() * (new_NK1 - old_NK1))
    return term_NK1.sum(dim=1).clamp_min(0.0)


class _Journal:
    """What each chunk gave, one line each; a line counts if the overlay holds all that it says was written."""

    def __init__(self, path: Path, writer: StoreWriter) -> None:
        self.path = path
        self.lines: dict[int, dict[str, Any]] = {}
        raw = path.read_bytes() if path.is_file() else b""
        for line in raw.split(b"\n")[:-1]:
            content = json.loads(line)
            if all(writer.done(bytes.fromhex(key)) for key in content["keys"]):
                self.lines[content["chunk"]] = content
        self.finish()

    def finish(self) -> None:
        """Write what counts, in order: the file of an interrupted update is that of an uninterrupted one."""
        lines = [json.dumps(self.lines[number]) + "\n" for number in sorted(self.lines)]
        atomic_write_bytes(self.path, "".join(lines).encode())

    def append(self, chunk: int, content: dict[str, Any]) -> None:
        self.lines[chunk] = {"chunk": chunk, **content}
        append_line(self.path, json.dumps(self.lines[chunk]))


def _summary(
    lines: dict[int, dict[str, Any]], sequences: int, directory: Path, base: StoredSignals, seconds: float
) -> UpdateResult:
    chunks = [lines[number] for number in sorted(lines)]
    kept = sum(chunk["kept"] for chunk in chunks)
    asked = sum(chunk["asked"] for chunk in chunks)
    pairs = np.array([pair for chunk in chunks for pair in chunk["by_sequence"]], dtype=np.float64).reshape(-1, 2)
    mean = float(pairs[:, 0].sum() / asked) if asked else None
    error = None
    if mean is not None and len(pairs) > 1:
        residual_S = pairs[:, 0] - mean * pairs[:, 1]
        error = float(math.sqrt((residual_S**2).sum() * len(pairs) / (len(pairs) - 1)) / asked)
    return UpdateResult(
        sequences=sequences,
        rows=sum(chunk["rows"] for chunk in chunks),
        asked_rows=asked,
        relabelled_rows=asked - kept,
        bytes_written=sum(path.stat().st_size for path in directory.glob("shard-*.arrow")),
        base_bytes=sum(shard.n_bytes for layer in base.reader.layers for shard in layer.manifest.shards),
        kept_error_nat=math.fsum(chunk["kept_sum"] for chunk in chunks) / kept if kept else 0.0,
        largest_kept_nat=max((chunk["kept_largest"] for chunk in chunks), default=0.0),
        moved_nat=mean,
        moved_standard_error_nat=error,
        seconds=seconds,
    )
