"""Samplers: which sequence comes when, the same however a step is split, and after an interruption."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from distill_core.engine.data import SCHEMA, TOKENS_FILE, TokenDataset
from distill_core.engine.microbatches import MicroBatches
from distill_core.engine.trainer import DistillTrainer
from distill_core.errors import TrainingError
from distill_core.interfaces import BuildContext
from distill_core.registry import Registry, get_registry
from distill_teachers.hf import HFTeacher
from tests.conftest import make_tiny_llama
from tests.train.setting import (
    numbers_tokenizer,
    objectives,
    registry_with_objectives,
    run_training,
    tiny_teacher,
    write_data,
)

DOMAINS = ("code", "prose")


def context(data: Any, **changes: Any) -> BuildContext:
    arguments: dict[str, Any] = {
        "student": make_tiny_llama(seed=1),
        "teacher_config": None,
        "total_steps": 10,
        "seed": 3,
        "build": None,
        "data": data,
        **changes,
    }
    return BuildContext(**arguments)


def sampler(use: str, data: Any, *, context_changes: dict[str, Any] | None = None, **options: Any) -> Any:
    built = get_registry().build("sampler", {"use": use, **options})
    built.build(context(data, **(context_changes or {})))
    return built


def registry() -> Registry:
    """Objectives of the tests, the first-party samplers."""
    from distill_objectives import sampler_options
    from distill_objectives.samplers import curriculum, domain_reweighting

    found = registry_with_objectives()
    found.register("sampler", "curriculum", curriculum.Curriculum, options=sampler_options.CurriculumOptions)
    found.register(
        "sampler",
        "domain-reweighting",
        domain_reweighting.DomainReweighting,
        options=sampler_options.DomainReweightingOptions,
    )
    return found


@pytest.fixture(scope="module")
def domains(tmp_path_factory: pytest.TempPathFactory) -> TokenDataset:
    """40 sequences: code repeats few tokens, prose is spread over all; difficulty counts down."""
    generator = np.random.default_rng(5)
    rows = []
    for index in range(40):
        domain = DOMAINS[index % 2]
        ids = generator.integers(3, 7 if domain == "code" else 97, int(generator.integers(8, 20))).astype(np.int32)
        rows.append(
            {
                "input_ids": ids.tolist(),
                "predict": None,
                "document": f"d{index}",
                "key": index.to_bytes(16, "big"),
                "domain": domain,
                "difficulty": float(40 - index),
            }
        )
    directory = tmp_path_factory.mktemp("domains")
    table = pa.Table.from_pylist(rows, schema=SCHEMA)
    with pa.OSFile(str(directory / TOKENS_FILE), "wb") as sink, pa.ipc.new_file(sink, SCHEMA) as writer:
        writer.write_table(table)
    return TokenDataset.open(directory)


@pytest.fixture(scope="module")
def live() -> HFTeacher:
    return HFTeacher.from_model(make_tiny_llama(seed=7, hidden_size=48), numbers_tokenizer(), label="tiny")


def steps(built: Any, n_steps: int, size: int) -> list[list[int]]:
    return [list(built.indices(step, range(step * size, (step + 1) * size))) for step in range(n_steps)]


# Curriculum -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pacing", ["root", "linear"])
def test_easy_first_then_everything(domains: TokenDataset, pacing: str) -> None:
    built = sampler("curriculum", domains, start_share=0.25, until=0.5, pacing=pacing)
    lengths = np.array([len(sequence) for sequence in domains])
    easiest = np.argsort(lengths, kind="stable")
    stream = steps(built, 10, 8)
    for step, chosen in enumerate(stream[:5]):
        progress = step / 5
        share = 0.25 + 0.75 * progress if pacing == "linear" else math.sqrt(0.0625 + 0.9375 * progress)
        assert set(chosen) <= set(easiest[: math.ceil(share * 40)].tolist()) and len(set(chosen)) == 8
    assert sorted(index for chosen in stream[5:] for index in chosen) == list(range(40))


def test_difficulty_of_records_and_the_other_way_round(domains: TokenDataset) -> None:
    built = sampler("curriculum", domains, by="record")
    assert built.easiest_first_S.tolist() == list(range(39, -1, -1))
    assert sampler("curriculum", domains, by="record", hardest_first=True).easiest_first_S.tolist() == list(range(40))


def cross_entropy(model: Any, ids: Any) -> float:
    """Independent: one sequence, dense, float64."""
    ids_T = torch.tensor(np.asarray(ids), dtype=torch.long)
    with torch.no_grad():
        logp_TV = model(input_ids=ids_T[None]).logits[0].double().log_softmax(-1)
    return float(-logp_TV[:-1].gather(1, ids_T[1:, None]).mean())


def test_difficulty_by_the_loss_of_student_and_teacher(domains: TokenDataset, live: HFTeacher) -> None:
    student = make_tiny_llama(seed=1)
    for by, model, changes in (("student-loss", student, {}), ("teacher-loss", live.model, {"teacher": live})):
        built = sampler("curriculum", domains, by=by, context_changes={"student": student, **changes})
        expected = np.argsort([cross_entropy(model, one.input_ids) for one in domains], kind="stable")
        assert built.easiest_first_S.tolist() == expected.tolist()


# Domains --------------------------------------------------------------------------------------------------------------


def test_probabilities_follow_the_gap(domains: TokenDataset) -> None:
    """One update by hand: softmax of prior and gap, a share of prior, smoothed."""
    student = make_tiny_llama(seed=1)
    options = {"every_steps": 2, "gap_nat": 0.5, "smoothing": 0.25, "prior_share": 0.1, "probe_sequences": 4}
    teacher = {"code": 1.0, "prose": 4.0}
    built = sampler(
        "domain-reweighting", domains, teacher_loss_nat=teacher, context_changes={"student": student}, **options
    )
    assert built.probability_D.tolist() == [0.5, 0.5]
    losses = []
    for probe in built._probes:
        rows = [len(one) - 1 for one in probe]
        sums = [cross_entropy(student, one.input_ids) * n for one, n in zip(probe, rows, strict=True)]
        losses.append(sum(sums) / sum(rows))
    for step in range(2):
        built.indices(step, range(step * 8, step * 8 + 8))
        built.on_step_end(Step(step + 1, 10))
    gap = np.array(losses) - np.array([1.0, 4.0])
    target = 0.9 * np.exp(gap / 0.5) / np.exp(gap / 0.5).sum() + 0.1 * 0.5
    assert built.probability_D == pytest.approx(0.25 * 0.5 + 0.75 * target, abs=1e-3)
    assert built.probability_D[0] != pytest.approx(0.5, abs=0.05) and built.probability_D.sum() == pytest.approx(1)


class Step:
    def __init__(self, step: int, total_steps: int) -> None:
        self.step, self.total_steps = step, total_steps


def test_probes_are_never_drawn_and_a_domain_goes_by_whole(domains: TokenDataset) -> None:
    teacher = {"code": 1.0, "prose": 1.0}
    built = sampler("domain-reweighting", domains, teacher_loss_nat=teacher, every_steps=100, probe_sequences=4)
    stream = []
    for step in range(20):
        stream += built.indices(step, range(step * 8, step * 8 + 8))
        built.on_step_end(Step(step + 1, 21))
    held = {one.document for probe in built._probes for one in probe}
    assert len(held) == 8 and not held & {domains[index].document for index in stream}
    counts = Counter(stream)
    for domain in (0, 1):
        own = [counts[index] for index in range(40) if index % 2 == domain and domains[index].document not in held]
        assert len(own) == 16 and max(own) - min(own) <= 1


def test_the_teachers_loss_is_measured_exactly(domains: TokenDataset, live: HFTeacher) -> None:
    built = sampler("domain-reweighting", domains, probe_sequences=3, context_changes={"teacher": live})
    for number, probe in enumerate(built._probes):
        rows = [len(one) - 1 for one in probe]
        sums = [cross_entropy(live.model, one.input_ids) * n for one, n in zip(probe, rows, strict=True)]
        assert built._teacher_D[number] == pytest.approx(sum(sums) / sum(rows), abs=2e-4)


# In a training --------------------------------------------------------------------------------------------------------

ORDERS = [
    {"use": "curriculum", "by": "student-loss"},
    {"use": "domain-reweighting", "every_steps": 2, "probe_sequences": 4, "gap_nat": 0.1},
]


def seen_in(
    directory: Path, student_dir: Path, data: TokenDataset, live: HFTeacher, monkeypatch: Any, **changes: Any
) -> list[list[str]]:
    """Documents of every step of a training."""
    seen: dict[int, list[str]] = {}
    counted = DistillTrainer.get_batch_samples

    def watched(trainer: Any, *arguments: Any) -> Any:
        samples, rest = counted(trainer, *arguments)
        names = [name for sample in samples for name in sample["batch"].documents]
        seen[trainer.state.global_step] = names
        return samples, rest

    monkeypatch.setattr(DistillTrainer, "get_batch_samples", watched)
    crash = changes.pop("crash_after", None)

    def on_step(step: int, metrics: Any) -> None:
        if step == crash:
            raise KeyboardInterrupt

    config = {"max_steps": 8, "save_steps": 3, "objectives": objectives("kl"), "sparse": None, **changes}
    try:
        run_training(
            directory, student_dir=student_dir, data=data, teacher=live, registry=registry(), on_step=on_step,
            config={"teacher": "live", **config},
        )  # fmt: skip
    except KeyboardInterrupt:
        assert crash is not None
    finally:
        monkeypatch.setattr(DistillTrainer, "get_batch_samples", counted)
    return [seen[step] for step in sorted(seen)]


@pytest.mark.parametrize("order", ORDERS, ids=lambda order: str(order["use"]))
def test_split_and_interruption_change_nothing(
    tmp_path: Path, student_dir: Path, domains: TokenDataset, live: HFTeacher, monkeypatch: Any, order: dict[str, Any]
) -> None:
    def run(name: str, **changes: Any) -> list[list[str]]:
        return seen_in(tmp_path / name, student_dir, domains, live, monkeypatch, order=order, **changes)

    whole = run("8x1", batch_sequences=8)
    assert len(whole) == 8 and all(len(step) == 8 for step in whole)
    assert run("2x4", batch_sequences=2, accumulation_steps=4) == whole
    assert run("killed", batch_sequences=8, crash_after=5) == whole[:5]
    assert run("killed", batch_sequences=8) == whole[3:]
    lines = {name: losses(tmp_path / name) for name in ("8x1", "killed")}
    assert lines["killed"] == lines["8x1"]
    if order["use"] == "domain-reweighting":
        found = [json.loads((tmp_path / name / "domain-weights.json").read_text()) for name in ("8x1", "killed")]
        assert found[0] == found[1] and [update["step"] for update in found[0]["updates"]] == [2, 4, 6]


def losses(directory: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (directory / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("world", [2, 4])
def test_processes_see_their_share_of_the_step(domains: TokenDataset, world: int) -> None:
    built = sampler("curriculum", domains)
    settings: dict[str, Any] = {"total_steps": 4, "seed": 3, "sampler": built}
    whole = MicroBatches(domains, batch_sequences=8, accumulation_steps=1, **settings)
    ranks = [
        MicroBatches(domains, batch_sequences=8 // world, accumulation_steps=1, rank=r, world_size=world, **settings)
        for r in range(world)
    ]
    for step in range(4):
        parts = [name for rank in ranks for name in rank[step]["batch"].documents]
        assert tuple(parts) == whole[step]["batch"].documents


# Wrong use ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("use", "options", "message"),
    [
        ("curriculum", {"by": "teacher-loss"}, r"needs a live teacher \(train.teacher: live\), got none"),
        ("domain-reweighting", {}, r"there is none: give its losses by domain, teacher_loss_nat"),
        (
            "domain-reweighting",
            {"teacher_loss_nat": {"code": 1.0, "poems": 1.0}},
            r"teacher_loss_nat names the domains \['code', 'poems'\], the training data has \['code', 'prose'\]",
        ),
        (
            "domain-reweighting",
            {"teacher_loss_nat": {"code": 1.0, "prose": 1.0}, "probe_sequences": 20},
            r"sets 20 sequences of each domain aside .* leaves nothing to train on",
        ),
    ],
)
def test_wrong_use_says_what_to_do(domains: TokenDataset, use: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        sampler(use, domains, **options)


def test_data_without_difficulty_or_domains(data: TokenDataset) -> None:
    with pytest.raises(TrainingError, match=r"12 of 12 training sequences have none \(first: document d0\)"):
        sampler("curriculum", data, by="record")
    with pytest.raises(TrainingError, match="needs at least two domains, the training data has"):
        sampler("domain-reweighting", data, teacher_loss_nat={"": 1.0})


def test_a_teacher_that_ignores_given_ids_is_refused(domains: TokenDataset) -> None:
    with pytest.raises(TrainingError, match="dense-teacher@1 does not answer on given token ids"):
        sampler("curriculum", domains, by="teacher-loss", context_changes={"teacher": tiny_teacher()})


def test_a_sampler_that_gives_nonsense_is_named(tmp_path: Path) -> None:
    class Short:
        def indices(self, step: int, positions: range) -> list[int]:
            return [0, 99]

    batches = MicroBatches(
        write_data(tmp_path), batch_sequences=4, accumulation_steps=1, total_steps=1, seed=0, sampler=Short()
    )
    with pytest.raises(TrainingError, match="Short gave 2 indices from 0 to 99 for step 0; expected 4 within 0 to 11"):
        batches[0]
