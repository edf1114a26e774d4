"""Arms are what the table says, units resume, and the statistics are those of plain formulas; on a tiny teacher."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import dense_kl, objective_arms, objective_report, objective_table
from benchmarks.__main__ import parse
from benchmarks.objective_arms import FULL, HARD, arms, run_file
from benchmarks.paired_seeds import comparisons, document_sums, equivalent, figure, margin, pair, seed_values
from benchmarks.remembered_states import RememberedStates
from distill_core.engine.run_file.loading import RawRunFile
from distill_core.engine.run_file.validate import check_run
from distill_core.engine.run_lock import run_lock
from distill_core.errors import ConfigError, DistillError
from distill_core.interfaces import BuildContext
from distill_core.plugin import Needs
from distill_core.registry import get_registry, reset_registry
from distill_core.testing.tiny_model import tiny_model, tiny_tokenizer, token_batch
from distill_core.types import StudentView


@pytest.fixture(autouse=True)
def own_registry():
    yield
    reset_registry()


@pytest.fixture
def words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A command line with a tiny teacher and three documents a year."""
    teacher, texts = tmp_path / "teacher", tmp_path / "texts"
    tokenizer = tiny_tokenizer()
    tiny_model(len(tokenizer)).save_pretrained(teacher)
    tokenizer.save_pretrained(teacher)
    texts.mkdir()
    for number in range(6):
        (texts / f"{number}.txt").write_text(f"Speech {number}: the union of {'many ' * number}states is strong.")
    paths = {True: [str(texts / f"{n}.txt") for n in range(3)], False: [str(texts / f"{n}.txt") for n in range(3, 6)]}
    monkeypatch.setattr(
        objective_arms, "speeches", lambda **number: {"use": "text-files", "paths": paths["max" in number]}
    )
    sizes = {"layers": 0, "entries": 3, "wide": 8, "window": 12, "steps": 3, "batch": 2, "warmup-steps": 1}
    given = [word for name, value in sizes.items() for word in (f"--{name}", str(value))]

    def line(*more: str) -> list[str]:
        return ["objective_table", *given, "--teacher", str(teacher), "--cache", str(tmp_path / "cache"), *more]

    return line


# Arms -----------------------------------------------------------------------------------------------------------------


def checked(options: Any, **changes: Any) -> Any:
    dense_kl.register()
    raw = run_file(options, draws=9)
    for name, change in changes.items():
        raw["compare"][name].update(change)
    return check_run(RawRunFile(raw, "test"), registry=get_registry())


def test_arms_pass_validation_and_differ_in_objective_and_target_alone(words) -> None:
    options = parse(words())
    trainings = checked(options).config.trainings()
    assert ["student", *(arm.name for arm in arms(options)[1:])] == list(trainings)
    assert arms(options)[0].name == HARD and arms(options)[1].name == FULL
    varying = {"teacher", "store", "objectives", "sparse", "rollout"}
    fixed = [training.model_dump(exclude=varying) for training in trainings.values()]
    assert all(one == fixed[0] for one in fixed)
    said = {name: training.model_dump(include=varying) for name, training in trainings.items()}
    assert len({json.dumps(one, sort_keys=True, default=str) for one in said.values()}) == len(said)


def test_only_forward_kl_reads_a_sample(words) -> None:
    options = parse(words())
    config = checked(options).config
    methods = {capture.name: capture.method for capture in config.captures}
    sampled = {
        name: training.objectives[0].use
        for name, training in config.trainings().items()
        if training.teacher == "store" and methods[training.store] != "topk"
    }
    assert sampled == {"threshold": "forward-kl", "multinomial": "forward-kl"}
    with pytest.raises(ConfigError, match="sampled"):
        checked(options, jsd={"store": "threshold"})


def test_hidden_states_are_compared_with_the_blocks_they_were_cut_from() -> None:
    options = parse(["objective_table", "--layers", "0", "15", "29"])
    assert objective_arms.pairs(options) == [[1, 1], [2, 16], [3, 30]]


# Full KD --------------------------------------------------------------------------------------------------------------


def test_dense_kl_is_forward_kl_on_all_entries_in_value_and_gradient() -> None:
    from distill_teachers.hf import HFTeacher

    tokenizer = tiny_tokenizer()
    teacher = HFTeacher.from_model(tiny_model(len(tokenizer)), tokenizer)
    student = tiny_model(len(tokenizer), seed=1).requires_grad_(True)
    batch = token_batch(tokenizer)
    context = BuildContext(student, teacher.config, 1, 0, build=lambda *a: None, teacher=teacher)
    objective = dense_kl.DenseForwardKL()
    objective.build(context)
    hidden_BTD = student.get_decoder()(
        input_ids=batch.input_ids_BT, attention_mask=batch.attention_mask_BT
    ).last_hidden_state
    signals = teacher.signals(batch, Needs(signals=frozenset({"hidden_states"})))
    found = objective(StudentView((hidden_BTD,)), signals, batch).total
    (own,) = torch.autograd.grad(found, hidden_BTD, retain_graph=True)
    rows = batch.rows()
    p_NV = teacher.model(batch.input_ids_BT, attention_mask=batch.attention_mask_BT).logits.double().softmax(-1)
    p_NV = rows.select(p_NV).detach()
    logq_NV = rows.select(hidden_BTD.double() @ student.get_output_embeddings().weight.double().T).log_softmax(-1)
    expected = (p_NV * (p_NV.log() - logq_NV)).sum()
    (gradient,) = torch.autograd.grad(expected, hidden_BTD)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(own, gradient, rtol=1e-4, atol=1e-5)


# The teacher's states -------------------------------------------------------------------------------------------------


def test_remembered_states_are_the_models_own_and_other_sequences_go_through_it(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    batch = token_batch(tokenizer)
    plain, model = tiny_model(len(tokenizer)), tiny_model(len(tokenizer))
    expected = plain.get_decoder()(
        input_ids=batch.input_ids_BT, attention_mask=batch.attention_mask_BT, output_hidden_states=True
    ).hidden_states
    states = RememberedStates(model.get_decoder(), [1])
    states.remember([batch], tmp_path / "states.pt")
    again = RememberedStates(tiny_model(len(tokenizer)).get_decoder(), [1])
    again.read = lambda **_: pytest.fail("what lies on disk is read again")
    again.remember([batch], tmp_path / "states.pt")
    mask_BT1 = batch.attention_mask_BT[..., None]
    for one in (states, again):
        narrow = batch.select_sequences(1, 3)
        found = one(narrow.input_ids_BT, narrow.attention_mask_BT, output_hidden_states=True)
        assert one.passes == 0 and found.hidden_states[0].shape[-1] == 0
        for layer in (1, 2):
            torch.testing.assert_close(
                found.hidden_states[layer] * mask_BT1[1:], expected[layer][1:] * mask_BT1[1:], rtol=1e-4, atol=1e-5
            )
    ids_BT = torch.tensor([[5, 6, 7]])
    torch.testing.assert_close(model(ids_BT).logits, plain(ids_BT).logits)
    assert states.passes == 1


# Units ----------------------------------------------------------------------------------------------------------------


def test_a_killed_run_goes_on_and_gives_the_same(words, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    some = ["--seeds", "2", "--arms", HARD, FULL, "threshold", "hidden-and-kl"]
    options = parse(words(*some, "--json", str(tmp_path / "found.json")))
    whole = objective_table.run(options)
    order = [(unit["arm"], unit["seed"]) for unit in whole["units"]]
    assert order == [(arm, seed) for seed in (0, 1) for arm in (HARD, FULL, "threshold", "hidden-and-kl")]
    assert json.loads((tmp_path / "found.json").read_text())["units"] == whole["units"]
    assert objective_table.missing(options) == []

    (tmp_path / "cache" / "units" / "threshold-1.json").unlink()
    (tmp_path / "cache" / "training" / "threshold-1").mkdir(parents=True)
    (tmp_path / "cache" / "training" / "threshold-1" / "half").write_text("left by a kill")
    done: list[tuple[str, int]] = []
    unit = objective_table.Experiment.unit

    def counted(self: Any, arm: Any, seed: int) -> dict[str, Any]:
        done.append((arm.name, seed))
        return unit(self, arm, seed)

    monkeypatch.setattr(objective_table.Experiment, "unit", counted)
    resumed = objective_table.run(options)
    assert done == [("threshold", 1)]
    for one, other in zip(whole["units"], resumed["units"], strict=True):
        assert {**one, "cpu_s": 0} == {**other, "cpu_s": 0}
    assert not any((tmp_path / "cache" / "training").iterdir())


def test_seeds_share_the_start_and_differ_in_order_and_sample(words, tmp_path: Path) -> None:
    options = parse(words("--seeds", "2", "--arms", HARD, "threshold", "on-policy", "multinomial"))
    result = objective_table.run(options)
    losses = {(unit["arm"], unit["seed"]): unit["sums"]["forward_kl"] for unit in result["units"]}
    assert len({tuple(values) for values in losses.values()}) == len(losses)
    assert {path.name for path in (tmp_path / "cache" / "stores").iterdir()} == {
        "threshold-0", "threshold-1", "multinomial-0", "multinomial-1"
    }  # fmt: skip
    assert set(result["start"]) == {"teacher", "untrained"} and "forward_kl" not in result["start"]["teacher"]
    assert len(result["start"]["untrained"]["forward_kl"]) == len(result["data"]["documents"]) == 3


def test_other_settings_are_refused(words, tmp_path: Path) -> None:
    objective_table.save(objective_table.settings(parse(words())), tmp_path / "cache" / "settings.json")
    with pytest.raises(SystemExit, match="other settings"):
        objective_table.run(parse(words("--learning-rate", "0.5")))
    with pytest.raises(SystemExit, match="no arm"):
        objective_table.run(parse(words("--arms", "soft-labels")))
    with pytest.raises(SystemExit, match="multiple of --epochs"):
        objective_table.run(parse(words("--epochs", "4")))


def test_two_runs_in_one_cache_are_refused(words, tmp_path: Path) -> None:
    options = parse(words())
    Path(options.cache).mkdir()
    with run_lock(Path(options.cache)), pytest.raises(DistillError, match="another distill process"):
        objective_table.run(options)


# Statistics -----------------------------------------------------------------------------------------------------------

ROWS = [10, 30]


def measured(values: dict[str, list[tuple[float, float]]]) -> dict[str, Any]:
    """A result: by arm, per seed the metric's sum in each of two documents; all metrics alike."""
    named = {"forward_kl", "cross_entropy", "top1_agreement", "ece"}
    options = parse(["objective_table"])
    return {
        "benchmark": "objective_table",
        "machine": "a machine",
        "settings": objective_table.settings(options),
        "arms": [{"name": name, "objective": "a loss", "target": "a target"} for name in values],
        "data": {"documents": ["a", "b"], "rows": ROWS, "train_rows": 9, "train_documents": 3},
        "start": {"teacher": {"cross_entropy": [20.0, 60.0], "ece": [1.0, 3.0]}},
        "units": [
            {"arm": name, "seed": seed, "sums": {metric: list(sums) for metric in named}}
            for name, seeds in values.items()
            for seed, sums in enumerate(seeds)
        ],
    }


def test_figures_and_pairs_by_hand() -> None:
    result = measured({FULL: [(10, 30), (14, 34)], HARD: [(20, 40), (28, 52), (0, 0)]})
    assert seed_values(result, HARD, "ece") == {0: 1.5, 1: 2.0, 2: 0.0}
    assert document_sums(result, FULL, "ece", {0, 1}) == {"a": (12.0, 10), "b": (32.0, 30)}
    found = figure(result, FULL, "forward_kl")
    # ratio 44 / 40; terms (12 - 11) / 40 and (32 - 33) / 40; variance 2 / 1 times the sum of their squares
    assert found.value == pytest.approx(1.1) and found.standard_error == pytest.approx(math.sqrt(2 * 2 / 1600))
    seeds, over_seeds, over_documents = pair(result, HARD, FULL, "forward_kl")
    assert seeds == 2  # the third has no partner
    assert over_seeds.difference == over_documents.difference == pytest.approx((0.5 + 0.8) / 2)
    half = 6.313752 * math.sqrt(((0.15) ** 2 * 2) / 1 / 2)  # t(0.95, 1) = 6.3138
    assert over_seeds.interval == pytest.approx((0.65 - half, 0.65 + half), rel=1e-5)
    assert margin(result, hard=HARD, full=FULL) == pytest.approx(0.05 * 0.65)


def spread(base: float, noise: list[float]) -> list[tuple[float, float]]:
    return [(10 * (base + n), 30 * (base + n)) for n in noise]


NOISE = [0.0, 0.1, -0.1, 0.05, -0.05]


def test_equivalence_and_verdicts_need_both_views() -> None:
    steady = [n + e for n, e in zip(NOISE, [0.001, -0.001, 0.002, 0.0, -0.002], strict=True)]
    result = measured(
        {
            HARD: spread(3.0, NOISE),
            FULL: spread(2.0, NOISE),
            "same": spread(2.0, steady),
            "worse": spread(2.2, steady),
            "noisy": spread(2.0, [0.3, -0.3, 0.2, -0.2, 0.0]),
            "mixed": [(10 * (2.1 + n), 30 * (2.0 - 0.1 / 3 + n)) for n in steady],
        }
    )
    found = comparisons(result, [arm["name"] for arm in result["arms"]], FULL, "forward_kl")
    width = margin(result, hard=HARD, full=FULL)
    assert width == pytest.approx(0.05)
    assert equivalent(found["same"], width) and not equivalent(found["worse"], width)
    assert not equivalent(found["noisy"], width), "no difference on average, but the seeds do not show it"
    assert not equivalent(found["mixed"], width), "the same in every seed, by documents that disagree"
    assert (
        found["worse"].verdict == "worse" and found["same"].verdict == found["noisy"].verdict == "no clear difference"
    )
    assert found["worse"].p_seeds > pair(result, "worse", FULL, "forward_kl")[1].p_value, "Holm raises it"


def test_fewer_than_five_seeds_decide_nothing() -> None:
    result = measured({HARD: spread(3.0, [0.0]), FULL: spread(2.0, [0.0])})
    (found,) = comparisons(result, [HARD, FULL], FULL, "forward_kl").values()
    assert found.verdict == "undecidable" and not equivalent(found, 10.0)
    assert "one seed" in objective_report.table(result)
    four = measured({HARD: spread(3.0, NOISE[:4]), FULL: spread(2.0, NOISE[:4]), "jsd": spread(2.0, NOISE)})
    found = comparisons(four, [HARD, FULL], FULL, "forward_kl")[HARD]
    assert found.over_seeds.p_value < 1e-6 and found.verdict == "undecidable" and not equivalent(found, 10.0)
    assert "**Unfinished** (seed 0: 3 of 3 arms, " in objective_report.table(four)
    assert "seed 4: 1 of 3 arms)" in objective_report.table(four)


def test_table_shows_every_arm_and_the_margin() -> None:
    result = measured({HARD: spread(3.0, NOISE), FULL: spread(2.0, NOISE), "jsd": spread(2.0, NOISE)})
    page = objective_report.table(result)
    assert (
        "| `jsd` | a loss | a target | 5 | 2.000 ± 0.000 |" in page and "| *teacher* | | | |  | 2.000 ± 0.000 |" in page
    )
    assert "Margin of equivalence, 5% of the first: 0.0500 nat" in page
    assert "within it): `jsd`." in page and "Unfinished" not in page
    partial = measured({"jsd": spread(2.0, NOISE)})
    assert "Paired" not in objective_report.table(partial)
