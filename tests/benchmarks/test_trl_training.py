"""Whole trainings beside TRL's: our side on the tiny case, the arithmetic, and going on where it was stopped.

TRL itself is not needed here: `python -m benchmarks trl_training` compares with it.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import trl_training
from benchmarks.__main__ import main
from benchmarks.side_by_side import ours, process, rivals, summary
from benchmarks.side_by_side.table import table
from benchmarks.side_by_side.world import World, held_out_kl, make

TINY = replace(trl_training.SIZES["tiny"], batch=2, length=16, steps=4, warm_up=1, lr_warm_up=0, held_out=5)


def times(step_s: float, *, peak_mib: float = 100.0, kl: tuple[float, ...] = (1.0, 2.0)) -> dict[str, Any]:
    """A training of three timed steps; CPU time is twice the wall time."""
    return {
        "step_wall_s": [0.5 * step_s, step_s, 1.5 * step_s],
        "step_cpu_s": [2 * step_s] * 3,
        "peak_mib": peak_mib,
        "losses": [1.25, 0.5],
        "held_out_kl": list(kl),
    }


OWN = [times(1.0), times(2.0), times(1.0)]
RIVAL = [times(3.0, peak_mib=200, kl=(0.5, 2.0)), times(4.0, peak_mib=400, kl=(1.0, 1.0)), times(5.0, peak_mib=200)]
CAPTURES = [
    {"capture_wall_s": c, "capture_cpu_s": 2 * c, "peak_mib": 150.0, "sequences": 8} for c in (20.0, 30.0, 40.0)
]


def test_ratios_are_taken_round_by_round() -> None:
    assert summary.speed(OWN, RIVAL, "wall") == summary.Ratio(3.0, 2.0, 5.0)
    assert summary.memory(OWN, RIVAL) == summary.Ratio(0.5, 0.25, 0.5)


@pytest.mark.parametrize(("epochs", "expected"), [(1, (30 / 30, 40 / 50, 50 / 50)), (3, (90 / 50, 120 / 90, 150 / 70))])
def test_a_capture_counts_once_for_all_epochs(epochs: int, expected: tuple[float, ...]) -> None:
    found = summary.speed_with_capture(CAPTURES, OWN, RIVAL, epochs=epochs, steps=10, clock="wall")
    assert found == pytest.approx(summary.Ratio.of(expected))
    assert found == summary.speed_with_capture(CAPTURES, OWN, RIVAL, epochs=epochs, steps=10, clock="cpu")


def test_at_the_break_even_both_took_as_long() -> None:
    for capture, own, rival in zip(CAPTURES, OWN, RIVAL, strict=True):
        one = [capture], [own], [rival]
        epochs = summary.break_even_epochs(*one, steps=10, clock="wall").median
        assert epochs == capture["capture_wall_s"] / (10 * (rival["step_wall_s"][1] - own["step_wall_s"][1]))
        assert summary.speed_with_capture(*one, epochs=epochs, steps=10, clock="wall").median == pytest.approx(1.0)
    assert summary.break_even_epochs(CAPTURES, RIVAL, OWN, steps=10, clock="wall").median == float("inf")


def test_the_kl_is_compared_sequence_by_sequence() -> None:
    difference, error = summary.kl_difference(OWN, RIVAL)
    first, second = (0.5 + 0 + 0) / 3, (0 + 1 + 0) / 3
    assert difference == pytest.approx((first + second) / 2)
    assert error == pytest.approx(abs(first - second) / 2)  # the standard deviation of two numbers over sqrt(2)
    assert summary.mean_kl(OWN) == 1.5


def found_of(cases: dict[str, Any]) -> dict[str, Any]:
    return {
        "title": "T;",
        "machine": "M",
        "settings": {**vars(TINY), "steps": 10},
        "expected": {"full": 1.25, "topk": 1.0, "threshold_sd": 0.125},
        "initial_kl": 3.0,
        "cases": cases,
    }


def test_the_table_says_what_was_measured_and_what_was_not() -> None:
    shown = table(
        found_of(
            {
                "capture": {"rounds": CAPTURES},
                "store": {"rounds": OWN},
                "gkd": {"rounds": RIVAL},
                "distillation": {"absent": "trl is not installed"},
            }
        )
    )
    assert "| TRL `DistillationTrainer` | not measured: trl is not installed |" in shown
    assert "| distill-core, from the store, training only | 3.00 (2.00 to 5.00) |" in shown
    assert "| from the store, capture counted, 1 epoch | 1.00 (0.80 to 1.00) |" in shown
    assert "| breaks even after so many epochs | 1.00 (1.00 to 1.50) |" in shown
    assert "0.75 (0.38 to 0.75)" in shown, "the peak of capture and training together"
    assert "over TRL `DistillationTrainer`" not in shown
    grids = [line.count("|") for line in shown.splitlines() if line.startswith("|")]
    assert set(grids) == {8, 6}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make(tmp_path_factory.mktemp("trl") / "world", TINY)


@pytest.fixture(scope="module")
def trained(tiny: World) -> dict[str, dict[str, Any]]:
    """All contestants of ours, in this process."""
    found = {}
    for name in ("capture", "store", "live", "live-topk"):
        scratch = tiny.directory / "round-0" / name
        scratch.mkdir(parents=True)
        found[name] = process.measure(tiny.of_round(0), name, scratch)
    return found


def test_our_contestants_train_as_expected(tiny: World, trained: dict[str, dict[str, Any]]) -> None:
    expected = tiny.expected
    assert expected["topk"] < expected["full"]
    assert trained["live-topk"]["losses"][0] == pytest.approx(expected["topk"], rel=1e-5)
    before = sum(held_out_kl(tiny, tiny.student))
    for name in ("store", "live"):
        assert abs(trained[name]["losses"][0] - expected["full"]) < 4 * expected["threshold_sd"]
        assert len(trained[name]["losses"]) == TINY.steps
        assert len(trained[name]["step_wall_s"]) == TINY.steps - TINY.warm_up
        assert sum(held_out_kl(tiny, Path(trained[name]["model"]))) < before
    assert trained["capture"]["sequences"] == TINY.sequences and trained["capture"]["store_bytes"] > 0
    assert all(one["peak_mib"] > 100 for one in trained.values())


def test_the_teacher_is_no_distance_from_itself(tiny: World) -> None:
    assert held_out_kl(tiny, tiny.teacher) == pytest.approx([0.0] * TINY.held_out, abs=1e-9)


def test_the_held_out_kl_is_that_of_whole_logits(tiny: World) -> None:
    from transformers import AutoModelForCausalLM

    ids_BT, _ = tiny.held_out()
    with torch.no_grad():
        p, q = (
            AutoModelForCausalLM.from_pretrained(path)(ids_BT).logits[:, :-1].double().log_softmax(-1)
            for path in (tiny.teacher, tiny.student)
        )
    assert held_out_kl(tiny, tiny.student) == pytest.approx((p.exp() * (p - q)).sum(-1).mean(1).tolist(), rel=1e-5)


def test_rivals_are_handed_the_order_of_our_trainer(tiny: World, monkeypatch: pytest.MonkeyPatch) -> None:
    teacher = ours.teacher_of(tiny)
    answer, seen = teacher.signals, []

    def watched(batch: Any, *rest: Any, **named: Any) -> Any:
        seen.extend(batch.input_ids_BT.tolist())
        return answer(batch, *rest, **named)

    monkeypatch.setattr(teacher, "signals", watched)
    monkeypatch.setattr(ours, "teacher_of", lambda world: teacher)
    scratch = tiny.directory / "order"
    scratch.mkdir()
    second = tiny.of_round(1)
    ours.live(second, scratch)
    assert seen == second.sequences() != tiny.sequences()
    assert sorted(seen) == sorted(tiny.sequences())


def test_a_missing_rival_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(rivals, "missing", lambda: "trl is not installed (pip install it)")
    monkeypatch.setattr(trl_training, "initial_kl", lambda world: 1.0)
    main(["trl_training", "--steps", "4", "--only", "gkd", "--work", str(tmp_path / "work")])
    shown = capsys.readouterr().out
    assert "| TRL `GKDTrainer` | not measured: trl is not installed (pip install it) |" in shown
    assert "python -m benchmarks trl_training --steps 4 --only gkd\n" in shown


def test_a_stopped_benchmark_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[tuple[str, str]] = []

    def instead(directory: str, name: str, path: str, last: str) -> None:
        ran.append((last, name))
        (Path(path) / "result.json").write_text(json.dumps({"contestant": name, "peak_mib": 1.0}))

    monkeypatch.setattr(process, "_python", instead)
    monkeypatch.setattr(rivals, "missing", lambda: None)
    words = ["trl_training", "--steps", "4", "--rounds", "2", "--only", "gkd", "distillation"]
    words += ["--work", str(tmp_path / "work"), "--at-most"]
    with pytest.raises(SystemExit, match="3 of 4 measurements are left"):
        main([*words, "1"])
    with pytest.raises(SystemExit, match="1 of 4 measurements are left"):
        main([*words, "2"])
    assert ran == [("0", "distillation"), ("0", "gkd"), ("1", "distillation")]


def test_wrong_use_is_refused(tmp_path: Path, tiny: World) -> None:
    with pytest.raises(SystemExit, match="name another --work"):
        make(tiny.directory, replace(TINY, batch=3))
    with pytest.raises(SystemExit, match="`store` reads what `capture` leaves"):
        main(["trl_training", "--steps", "4", "--only", "store", "--work", str(tmp_path)])


def test_a_contestant_that_fails_says_why(tmp_path: Path, tiny: World) -> None:
    with pytest.raises(RuntimeError, match="KeyError: 'nobody'"):
        process.in_fresh_process(tiny, "nobody", tmp_path / "scratch", 0)
    assert not (tmp_path / "scratch" / "result.json").exists()


def test_a_world_is_opened_with_its_settings(tiny: World) -> None:
    assert World.open(tiny.directory).settings == TINY and make(tiny.directory, TINY).settings == TINY
