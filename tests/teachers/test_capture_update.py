"""A new revision of the teacher: what moved is captured anew, what did not keeps its label, nothing else is touched."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from distill_core.config import CaptureConfig, UpdateConfig
from distill_core.engine.capture import capture
from distill_core.engine.capture_update import update_capture
from distill_core.engine.data import collate
from distill_core.engine.stored import StoredSignals
from distill_core.errors import ConfigError, SignalError, StoreError
from distill_core.store import verify_store
from distill_teachers.hf import HFTeacher
from tests.conftest import make_tiny_llama
from tests.run.conftest import Workshop, plain_teacher, workshop
from tests.teachers.conftest import TARGETS, random_sequences

__all__ = ["plain_teacher", "workshop"]

FORM: dict[str, Any] = {"k": 16, "batch_tokens": 100, "shard_sequences": 4}


def files(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(directory.iterdir()) if path.name != "update.json"}


@pytest.fixture(scope="module")
def new_teacher(tiny_teacher: HFTeacher, tiny_tokenizer: Any) -> HFTeacher:
    """The tiny teacher a little further on."""
    model = copy.deepcopy(tiny_teacher.model)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.01)
    return HFTeacher.from_model(model, tiny_tokenizer, label="new")


def made(teacher: HFTeacher, directory: Path, tokens: Any, method: str = "topk") -> tuple[list[Any], CaptureConfig]:
    sequences = random_sequences(14, vocabulary=len(tokens))
    config = CaptureConfig(method=method, **FORM)  # type: ignore[arg-type]
    capture(teacher, sequences, config, directory, seed=3)
    return sequences, config


def updating(config: CaptureConfig, base: Path, **rules: Any) -> CaptureConfig:
    return config.model_copy(update={"update": UpdateConfig(base=str(base), **rules)})


def dense(teacher: HFTeacher, batch: Any) -> torch.Tensor:
    with torch.no_grad():
        output = teacher.model(input_ids=batch.input_ids_BT, attention_mask=batch.attention_mask_BT)
    return batch.rows().select(output.logits)[:, : teacher.valid_vocab].double().log_softmax(-1)


@pytest.mark.parametrize("method", ["topk", "threshold"])
def test_only_what_moved_is_labelled_anew(
    method: str, tiny_teacher: HFTeacher, new_teacher: HFTeacher, tiny_tokenizer: Any, tmp_path: Path
) -> None:
    sequences, config = made(tiny_teacher, tmp_path / "old", tiny_tokenizer, method)
    before = files(tmp_path / "old")
    old = StoredSignals(tmp_path / "old").signals(collate(sequences), TARGETS).target
    assert old is not None
    head, new_NV = old.head(), dense(new_teacher, collate(sequences))
    # Independently, in float64: KL(new || old) on the old support and the rest.
    kept_NK = head.ids_NK >= 0
    new_NK = torch.where(kept_NK, new_NV.gather(1, head.ids_NK.clamp_min(0)).exp(), 0.0)
    p_NK1 = torch.cat([new_NK, 1 - new_NK.sum(1, keepdim=True)], dim=1)
    term_NK1 = torch.where(p_NK1 > 0, p_NK1 * (p_NK1.log() - head.log_probs().double()), 0.0)
    moved_N = term_NK1.sum(1)
    bound = float(moved_N.quantile(0.6))
    result = update_capture(
        new_teacher, sequences, updating(config, tmp_path / "old", bound_nat=bound), tmp_path / "new", seed=3
    )
    beyond_N = moved_N > bound
    assert result.rows == result.asked_rows == len(moved_N)
    assert result.relabelled_rows == int(beyond_N.sum()) > 0
    # Flat rows of a threshold sample have no exact entry: nothing is seen to move there.
    assert result.relabelled_share < 0.45 and (method == "threshold" or result.relabelled_share > 0.35)
    assert result.kept_error_nat == pytest.approx(float(moved_N[~beyond_N].mean()), rel=1e-3, abs=1e-6)
    assert result.moved_nat == pytest.approx(float(moved_N.mean()), rel=1e-3)
    assert result.largest_kept_nat <= bound and result.bytes_written > 0
    assert json.loads((tmp_path / "new" / "update.json").read_text())["relabelled_rows"] == result.relabelled_rows
    # Reading: the newest layer where it has the row, the old one elsewhere; in any batch.
    full_dir = tmp_path / "full"
    capture(new_teacher, sequences, config, full_dir, seed=3)
    batch = collate([sequences[5], sequences[0], sequences[9]])
    found, anew, stale = (
        StoredSignals(tmp_path / name).signals(batch, TARGETS).target for name in ("new", "full", "old")
    )
    starts = [sum(len(collate([one]).rows()) for one in sequences[:index]) for index in (5, 0, 9)]
    sizes = [len(collate([sequences[index]]).rows()) for index in (5, 0, 9)]
    chosen = torch.cat([beyond_N[start : start + size] for start, size in zip(starts, sizes, strict=True)])
    assert bool(chosen.any()) and not bool(chosen.all())
    for name in ("ids_NK", "logits_NK", "tail_NM", "weights_NK"):
        values = [getattr(target, name) for target in (found, anew, stale)]
        if values[0] is not None:
            assert torch.equal(values[0], torch.where(chosen[:, None], values[1], values[2])), name
    assert StoredSignals(tmp_path / "new").identity() == new_teacher.identity()
    assert files(tmp_path / "old") == before and verify_store(tmp_path / "new") == []


def test_bounds_of_nothing_and_everything(
    tiny_teacher: HFTeacher, new_teacher: HFTeacher, tiny_tokenizer: Any, tmp_path: Path
) -> None:
    sequences, config = made(tiny_teacher, tmp_path / "old", tiny_tokenizer)
    batch = collate(sequences[:3])

    def stored(name: str) -> torch.Tensor:
        target = StoredSignals(tmp_path / name).signals(batch, TARGETS).target
        assert target is not None
        return target.log_probs()

    same = update_capture(tiny_teacher, sequences, updating(config, tmp_path / "old"), tmp_path / "same", seed=3)
    assert same.relabelled_rows == 0 and same.bytes_written == 0 and same.moved_nat < 1e-3
    assert torch.equal(stored("same"), stored("old"))
    every = updating(config, tmp_path / "old", bound_nat=0.0)
    whole = update_capture(new_teacher, sequences, every, tmp_path / "whole", seed=3)
    capture(new_teacher, sequences, config, tmp_path / "full", seed=3)
    assert whole.relabelled_rows == whole.rows and torch.equal(stored("whole"), stored("full"))
    # A third layer over the second: the middle one still answers.
    third = update_capture(new_teacher, sequences, updating(config, tmp_path / "whole"), tmp_path / "third", seed=3)
    assert third.relabelled_rows == 0 and torch.equal(stored("third"), stored("full"))


def test_a_probe_estimates_what_was_not_asked(
    tiny_teacher: HFTeacher, new_teacher: HFTeacher, tiny_tokenizer: Any, tmp_path: Path
) -> None:
    sequences, config = made(tiny_teacher, tmp_path / "old", tiny_tokenizer)
    part = update_capture(
        new_teacher, sequences, updating(config, tmp_path / "old", probe_share=0.5), tmp_path / "part", seed=3
    )
    none = update_capture(
        new_teacher, sequences, updating(config, tmp_path / "old", probe_share=0.0), tmp_path / "none", seed=3
    )
    whole = update_capture(new_teacher, sequences, updating(config, tmp_path / "old"), tmp_path / "all", seed=3)
    assert 0 < part.asked_rows < part.rows == whole.rows and part.relabelled_rows <= part.asked_rows
    assert part.moved_nat is not None and part.moved_standard_error_nat is not None and whole.moved_nat is not None
    assert abs(part.moved_nat - whole.moved_nat) < 4 * part.moved_standard_error_nat
    assert "were not asked about and are expected to be" in part.sentence()
    assert (none.asked_rows, none.relabelled_rows, none.moved_nat) == (0, 0, None)


@pytest.mark.parametrize("calls", [2, 5, 9])
def test_interrupted_updates_resume_byte_for_byte(
    calls: int, tiny_teacher: HFTeacher, new_teacher: HFTeacher, tiny_tokenizer: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    sequences, config = made(tiny_teacher, tmp_path / "old", tiny_tokenizer)
    config = updating(config, tmp_path / "old", bound_nat=0.002).model_copy(update={"shard_sequences": 3})
    update_capture(new_teacher, sequences, config, tmp_path / "whole", seed=3)
    answered = HFTeacher.signals
    count = 0

    def failing(self: HFTeacher, *arguments: Any) -> Any:
        nonlocal count
        count += 1
        if count == calls:
            raise KeyboardInterrupt
        return answered(self, *arguments)

    monkeypatch.setattr(HFTeacher, "signals", failing)
    with pytest.raises(KeyboardInterrupt):
        update_capture(new_teacher, sequences, config, tmp_path / "cut", seed=3)
    with pytest.raises(StoreError, match="has not finished"):
        StoredSignals(tmp_path / "cut")
    update_capture(new_teacher, sequences, config, tmp_path / "cut", seed=3)
    assert files(tmp_path / "cut") == files(tmp_path / "whole")


def test_wrong_bases_are_refused(
    tiny_teacher: HFTeacher, new_teacher: HFTeacher, tiny_tokenizer: Any, tmp_path: Path
) -> None:
    sequences, config = made(tiny_teacher, tmp_path / "old", tiny_tokenizer)
    old = tmp_path / "old"
    with pytest.raises(StoreError, match=r"captured otherwise .*k: 16 against 8.*Only the teacher's weights may"):
        other = updating(config, old).model_copy(update={"k": 8})
        update_capture(new_teacher, sequences, other, tmp_path / "a", seed=3)
    with pytest.raises(StoreError, match="neither stored nor a prefix of a stored sequence"):
        texts = random_sequences(5, vocabulary=len(tiny_tokenizer), seed=77)
        update_capture(new_teacher, texts, updating(config, old), tmp_path / "b", seed=3)

    class Letters:
        def __len__(self) -> int:
            return len(tiny_tokenizer)

        def get_vocab(self) -> dict[str, int]:
            return {f"t{index}": index for index in range(len(tiny_tokenizer))}

    foreign = HFTeacher.from_model(make_tiny_llama(vocab_size=len(tiny_tokenizer)), Letters(), label="foreign")
    with pytest.raises(StoreError, match=r"captured otherwise .*tokenizer_fingerprint"):
        update_capture(foreign, sequences, updating(config, old), tmp_path / "c", seed=3)
    with pytest.raises(SignalError, match="a multinomial sample has no exact part"):
        sampled = updating(config, old).model_copy(update={"method": "multinomial"})
        update_capture(new_teacher, sequences, sampled, tmp_path / "d", seed=3)
    update_capture(new_teacher, sequences, updating(config, old), tmp_path / "e", seed=3)
    with pytest.raises(StoreError, match=r"holds another update \(bound_nat changed\)"):
        update_capture(new_teacher, sequences, updating(config, old, bound_nat=0.5), tmp_path / "e", seed=3)
    (old / "store.json").write_text((old / "store.json").read_text() + " ")
    with pytest.raises(StoreError, match="was changed since: update again"):
        StoredSignals(tmp_path / "e")


def test_a_run_file_is_checked(
    workshop: Workshop, tiny_teacher: HFTeacher, tiny_tokenizer: Any, tmp_path: Path
) -> None:
    made(tiny_teacher, tmp_path / "old", tiny_tokenizer)

    def problem(message: str, **capture_options: Any) -> None:
        with pytest.raises(ConfigError, match=message):
            workshop.check(lambda run: run.update(capture={"method": "topk", "k": 16, **capture_options}))

    base = str(tmp_path / "old")
    workshop.check(lambda run: run.update(capture={"method": "topk", "k": 16, "update": {"base": base}}))
    problem("capture.update.bound_nat", update={"base": base, "bound_nat": -0.1})
    problem("capture.update.probe_share", update={"base": base, "probe_share": 1.5})
    problem("not a store of teacher signals", update={"base": str(tmp_path / "nowhere")})
    problem("is 8, but the store .* holds 16: an update keeps the form", k=8, update={"base": base})
