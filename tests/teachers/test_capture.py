"""Capture into a store and reading it back: nothing lost, nothing unasked, the same answer as the live teacher."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from distill_core.config import CaptureConfig
from distill_core.engine.capture import batches_of, capture
from distill_core.engine.data import collate
from distill_core.engine.progress import Progress
from distill_core.engine.stored import StoredSignals
from distill_core.errors import ConfigError, DataError, SignalError, StoreError
from distill_core.registry import get_registry
from distill_core.store import verify_store
from distill_core.types import Needs, SparseSpec, TokenBatch
from distill_teachers.hf import HFTeacher
from tests.teachers.conftest import TARGETS, random_sequences, sequence

METHODS = [("topk", 16), ("threshold", 6), ("multinomial", 20)]


def files(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(directory.iterdir())}


def live(teacher: HFTeacher, batch: TokenBatch, config: CaptureConfig, seed: int) -> Any:
    temperatures = tuple(config.temperatures)
    needs = Needs(frozenset({"targets"}), temperatures=temperatures)
    spec = SparseSpec(config.method, config.k, temperatures, seed=seed)
    return teacher.signals(batch, needs, spec).target


@pytest.mark.parametrize(("method", "k"), METHODS)
def test_stored_answers_are_the_live_ones(
    method: Any, k: int, tiny_teacher: HFTeacher, tiny_tokenizer: Any, tmp_path: Path
) -> None:
    sequences = random_sequences(11, vocabulary=len(tiny_tokenizer))
    temperatures = [1.0, 3.0] if method == "topk" else [1.0]
    config = CaptureConfig(method=method, k=k, temperatures=temperatures, batch_tokens=100, shard_sequences=4)
    result = capture(tiny_teacher, sequences, config, tmp_path, seed=3)
    assert (result.sequences, result.skipped_sequences) == (11, 0)
    assert result.rows == len(collate(sequences).rows()) and result.tokens == sum(map(len, sequences))
    stored = StoredSignals(tmp_path)
    assert stored.identity() == tiny_teacher.identity()
    assert stored.vocabulary().fingerprint == tiny_teacher.vocabulary().fingerprint
    # Another order and other batches than the capture's.
    batch = collate([sequences[7], sequences[0], sequences[5]], pad_id=9)
    for t in temperatures:
        needs = Needs(frozenset({"targets"}), temperatures=(t,))
        target = stored.signals(batch, needs, SparseSpec("topk", 1)).target
        expected = live(tiny_teacher, batch, config, 3)
        assert target is not None and target.kind == expected.kind and len(target) == len(batch.rows())
        error_nat = stored.meta.error_nat + 1e-4  # and float32 noise of another batching
        if method == "topk":
            order = target.ids_NK.argsort(1), expected.ids_NK.argsort(1)
            assert torch.equal(target.ids_NK.gather(1, order[0]), expected.ids_NK.gather(1, order[1]))
            found_NK1, expected_NK1 = target.log_probs(t), expected.log_probs(t)
            found_NK = found_NK1[:, :-1].gather(1, order[0])
            assert float((found_NK - expected_NK1[:, :-1].gather(1, order[1])).abs().max()) <= error_nat
            assert float((found_NK1[:, -1] - expected_NK1[:, -1]).abs().max()) <= error_nat
        else:
            dense = torch.zeros(2, len(target), len(tiny_tokenizer) + 1)
            for row, one in enumerate((target, expected)):
                dense[row].scatter_(1, one.ids_NK % (len(tiny_tokenizer) + 1), one.weights_NK)
            kept = dense[1][:, :-1] > 0
            assert torch.equal(dense[0][:, :-1] > 0, kept)
            gap = (dense[0][:, :-1][kept].log() - dense[1][:, :-1][kept].log()).abs().max()
            assert float(gap) <= error_nat
            assert float((target.entropy_N - expected.entropy_N).abs().max()) <= 1e-3
            assert (target.threshold_N is None) == (method == "multinomial")
    verify_store(tmp_path)


def test_prefixes_are_served(tiny_teacher: HFTeacher, tiny_tokenizer: Any, tmp_path: Path) -> None:
    whole = random_sequences(1, vocabulary=len(tiny_tokenizer), longest=30, seed=9)[0]
    capture(tiny_teacher, [whole], CaptureConfig(method="topk", k=5), tmp_path)
    cut = sequence(whole.input_ids[:-3])
    stored = StoredSignals(tmp_path)
    full, part = (stored.signals(collate([one]), TARGETS).target for one in (whole, cut))
    assert full is not None and part is not None and len(part) == len(full) - 3
    assert torch.equal(part.ids_NK, full.ids_NK[: len(part)])


def test_draws(tiny_teacher: HFTeacher, tiny_tokenizer: Any, tmp_path: Path) -> None:
    sequences = random_sequences(3, vocabulary=len(tiny_tokenizer))
    config = CaptureConfig(method="threshold", k=6, draws=2)
    capture(tiny_teacher, sequences, config, tmp_path, seed=3)
    batch = collate(sequences)
    stored = StoredSignals(tmp_path)
    first = stored.signals(batch, TARGETS).target
    stored.draw = 1
    second = stored.signals(batch, TARGETS).target
    assert first is not None and second is not None
    assert torch.equal(first.ids_NK.sort().values, live(tiny_teacher, batch, config, 3).ids_NK.sort().values)
    assert not torch.equal(first.ids_NK.sort().values, second.ids_NK.sort().values)
    with pytest.raises(SignalError, match=r"draw 2 .* holds 2"):
        stored.draw = 2


def test_batches_never_cross_a_shard_and_fill_up() -> None:
    lengths = [5, 40, 12, 5, 40, 7, 100]
    batches = list(batches_of(lengths, 64))
    assert sorted(index for batch in batches for index in batch) == list(range(7))
    for batch in batches:
        assert len(batch) == 1 or max(lengths[i] for i in batch) * len(batch) <= 64
    assert [6] in batches  # longer than a batch: alone


def test_batch_size_changes_rounding_alone(tiny_teacher: HFTeacher, tiny_tokenizer: Any, tmp_path: Path) -> None:
    """The grid of the store swallows float noise nearly everywhere: ids and most bytes are those of any batching."""
    sequences = random_sequences(9, vocabulary=len(tiny_tokenizer))
    ids = []
    for batch_tokens in (40, 10_000):
        directory = tmp_path / str(batch_tokens)
        config = CaptureConfig(method="threshold", k=6, batch_tokens=batch_tokens, shard_sequences=5)
        capture(tiny_teacher, sequences, config, directory, seed=3)
        target = StoredSignals(directory).signals(collate(sequences), TARGETS).target
        assert target is not None
        ids.append(target.ids_NK.sort().values)
    assert torch.equal(*ids)


def test_twice_is_a_no_op_and_growing_keeps_what_is_there(
    tiny_teacher: HFTeacher, tiny_tokenizer: Any, tmp_path: Path
) -> None:
    sequences = random_sequences(9, vocabulary=len(tiny_tokenizer))
    config = CaptureConfig(method="threshold", k=6, shard_sequences=4)
    capture(tiny_teacher, [*sequences[:8], sequences[2]], config, tmp_path, seed=3)
    before = files(tmp_path)
    again = capture(tiny_teacher, sequences[:8], config, tmp_path, seed=3)
    assert (again.sequences, again.skipped_sequences, again.tokens) == (0, 8, 0)
    assert files(tmp_path) == before
    grown = capture(tiny_teacher, sequences, config, tmp_path, seed=3)
    assert (grown.sequences, grown.skipped_sequences) == (1, 8)
    assert files(tmp_path)["shard-00000.arrow"] == before["shard-00000.arrow"]
    assert len(StoredSignals(tmp_path).reader) == 9


def test_other_settings_are_refused(tiny_teacher: HFTeacher, tiny_tokenizer: Any, tmp_path: Path) -> None:
    sequences = random_sequences(3, vocabulary=len(tiny_tokenizer))
    capture(tiny_teacher, sequences, CaptureConfig(method="topk", k=6), tmp_path)
    with pytest.raises(StoreError, match="k: 6 against 7"):
        capture(tiny_teacher, sequences, CaptureConfig(method="topk", k=7), tmp_path)
    with pytest.raises(DataError, match="no sequences"):
        capture(tiny_teacher, [], CaptureConfig(), tmp_path / "other")
    with pytest.raises(SignalError, match="k is 9999"):
        capture(tiny_teacher, sequences, CaptureConfig(method="topk", k=9999), tmp_path / "other")


def test_masked_sequences_have_no_rows(tiny_teacher: HFTeacher, tmp_path: Path) -> None:
    sequences = [sequence([5, 6, 7], masked=3), sequence([8, 9, 10, 11], masked=2)]
    result = capture(tiny_teacher, sequences, CaptureConfig(method="topk", k=4), tmp_path)
    assert (result.sequences, result.rows) == (2, 2)
    target = StoredSignals(tmp_path).signals(collate(sequences), TARGETS).target
    assert target is not None and len(target) == 2
    nothing = StoredSignals(tmp_path).signals(collate(sequences[:1]), TARGETS).target
    assert nothing is not None and nothing.ids_NK.shape == (0, 4) and nothing.log_probs().shape == (0, 5)
    with pytest.raises(StoreError, match=r"position 0 .* no stored row"):
        StoredSignals(tmp_path).signals(collate([sequence([8, 9, 10, 11])]), TARGETS)


@pytest.mark.parametrize(("method", "k"), METHODS)
def test_store_refuses_what_it_does_not_hold(
    method: Any, k: int, tiny_teacher: HFTeacher, tiny_tokenizer: Any, tmp_path: Path
) -> None:
    sequences = random_sequences(3, vocabulary=len(tiny_tokenizer))
    capture(tiny_teacher, sequences, CaptureConfig(method=method, k=k), tmp_path)
    stored, batch = StoredSignals(tmp_path), collate(sequences)
    with pytest.raises(SignalError, match=r"\[2.0\] .* holds \[1.0\]"):
        stored.signals(batch, Needs(frozenset({"targets"}), temperatures=(2.0,)))
    with pytest.raises(SignalError, match=r"not known beforehand.*\[1.0\]"):
        stored.signals(batch, Needs(frozenset({"targets"}), temperatures=None))
    with pytest.raises(SignalError, match=r"hidden_states.*live"):
        stored.signals(batch, Needs(frozenset({"targets", "hidden_states"}), temperatures=(1.0,)))
    with pytest.raises(StoreError, match="neither stored nor a prefix"):
        stored.signals(collate([sequence([3, 4, 5, 6])]), TARGETS)


def test_store_teacher_by_name(tiny_teacher: HFTeacher, tiny_tokenizer: Any, tmp_path: Path) -> None:
    sequences = random_sequences(3, vocabulary=len(tiny_tokenizer))
    config = CaptureConfig(method="topk", k=4, temperatures=[1.0, 2.0])
    capture(tiny_teacher, sequences, config, tmp_path)
    registry = get_registry()
    reference = {"use": "store", "path": str(tmp_path)}
    provides = registry.find("teacher", "store").provides(registry.options("teacher", reference))
    assert (provides.targets, provides.temperatures) == (("exact",), (1.0, 2.0))
    target = registry.build("teacher", reference).signals(collate(sequences), TARGETS).target
    assert target is not None and target.kind == "exact"
    options = registry.options("teacher", {"use": "store", "path": str(tmp_path / "none")})
    assert options.problems()[0].startswith("path: ")
    with pytest.raises(ConfigError, match="path"):
        registry.build("teacher", {"use": "store"})
    with pytest.raises(StoreError):
        registry.build("teacher", {"use": "store", "path": str(tmp_path / "none")})


class _Broken:
    """A teacher whose rows cannot be stored."""

    def __init__(self, teacher: HFTeacher) -> None:
        self.teacher = teacher
        self.vocabulary, self.identity = teacher.vocabulary, teacher.identity

    def signals(self, batch: TokenBatch, needs: Needs, sparse: SparseSpec | None = None) -> Any:
        signals = self.teacher.signals(batch, needs, sparse)
        assert signals.target is not None and signals.target.logits_NK is not None
        signals.target.logits_NK[0, 0] = float("nan")
        return signals


def test_rows_that_cannot_be_stored_name_the_teacher(
    tiny_teacher: HFTeacher, tiny_tokenizer: Any, tmp_path: Path
) -> None:
    sequences = random_sequences(3, vocabulary=len(tiny_tokenizer))
    with pytest.raises(SignalError, match=rf"{tiny_teacher.identity()} gave rows that cannot be stored.*NaN"):
        capture(_Broken(tiny_teacher), sequences, CaptureConfig(method="topk", k=4), tmp_path)
    with pytest.raises(StoreError, match="not finished"):
        StoredSignals(tmp_path)


def test_progress_says_tokens_per_second(tiny_teacher: HFTeacher, tiny_tokenizer: Any, tmp_path: Path) -> None:
    stream = io.StringIO()
    sequences = random_sequences(3, vocabulary=len(tiny_tokenizer))
    progress = Progress(stream=stream, terminal=False)
    capture(tiny_teacher, sequences, CaptureConfig(name="soft"), tmp_path, progress=progress)
    assert "capture soft" in stream.getvalue() and "tok/s" in stream.getvalue()
    assert np.isclose(sum(map(len, sequences)), float(stream.getvalue().split(": ")[-1].split(" tok")[0]))
