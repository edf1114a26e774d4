"""Objectives and targets side by side on a real teacher, equal budgets, seeds paired by data order.

Teacher: the packaged 135M model, 30 layers; student: a few of its layers. Every arm trains the same student on the same
sequences in the same order with the same optimizer and number of steps; a seed is another order and, for sampled
targets, another sample. All students are measured on later speeches over the whole vocabulary.

Everything lies under `--cache`: data, initial student, the teacher's hidden states, stores, and one file per (arm,
seed) that is written when that is measured. A run that finds such files of the same settings measures the others only;
all arms have a seed before the next one begins. `--json` is written after each.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks import dense_kl
from benchmarks.head_gradients import draws_for_unique
from benchmarks.measure import machine
from benchmarks.objective_arms import HARD, SAMPLES, Arm, arms, run_config, run_file
from benchmarks.paired_seeds import HIGHER_IS_BETTER
from benchmarks.remembered_states import RememberedStates
from benchmarks.result import command_line, load, save
from distill_core.engine.capture import capture
from distill_core.engine.data import TokenDataset
from distill_core.engine.evaluation import EvaluationTarget, evaluate
from distill_core.engine.prepare import prepare_data
from distill_core.engine.progress import Progress
from distill_core.engine.run_file.loading import RawRunFile
from distill_core.engine.run_file.validate import check_run
from distill_core.engine.run_lock import run_lock
from distill_core.engine.stored import StoredSignals
from distill_core.engine.student import initialise_student, without_progress_bars
from distill_core.engine.training import train
from distill_core.registry import get_registry

DRAWS_ROWS = 512
"""Rows of the training text on which the number of multinomial draws is found."""

TEACHER, UNTRAINED = "teacher", "untrained"
"""Measured once, as what training starts from and aims at."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Sizes and seeds; the defaults take about an hour of one core."""
    parser.add_argument(
        "--layers", type=int, nargs="+", default=[0, 1, 15, 28, 29], help="teacher layers of the student"
    )
    parser.add_argument("--entries", type=int, default=12, help="k of the small targets, default 12")
    parser.add_argument("--wide", type=int, default=64, help="k of top-k + tail for other divergences, default 64")
    parser.add_argument("--window", type=int, default=128, help="tokens per sequence, default 128")
    parser.add_argument("--steps", type=int, default=20, help="optimizer steps, default 20")
    parser.add_argument("--batch", type=int, default=2, help="sequences per step, default 2")
    parser.add_argument("--epochs", type=int, default=1, help="how often a sequence is seen, default once")
    parser.add_argument("--freeze-head", action="store_true", help="leave the head and the embeddings as they are")
    parser.add_argument("--learning-rate", type=float, default=1e-3, help="the highest, default 1e-3")
    parser.add_argument("--warmup-steps", type=int, default=3, help="default 3")
    parser.add_argument("--train-years", type=int, nargs=2, default=[1960, 1999], help="default 1960 to 1999")
    parser.add_argument("--train-windows", type=int, default=2, help="sequences per speech, default 2")
    parser.add_argument("--held-out-from", type=int, default=2000, help="first held-out year, default 2000")
    parser.add_argument("--held-out-windows", type=int, default=1, help="sequences per held-out speech, default 1")
    parser.add_argument("--seeds", type=int, default=5, help="default 5")
    parser.add_argument("--arms", nargs="+", metavar="ARM", default=None, help="measure these only, default all")
    parser.add_argument("--teacher", metavar="DIR", default=None, help="another teacher, a Transformers directory")
    parser.add_argument("--cache", metavar="DIR", default="runs/objective-table", help="where everything is kept")


def settings(options: argparse.Namespace) -> dict[str, Any]:
    """What must be equal for units to stand in one table."""
    other = ("name", "module", "defaults", "json", "cache", "seeds", "arms")
    return {name: value for name, value in sorted(vars(options).items()) if name not in other}


class Experiment:
    """Data, student, teacher and stores of all arms, made once and kept under the cache."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.cache = options, Path(options.cache)
        self._same_settings()
        dense_kl.register()
        self.registry, self.quiet = get_registry(), Progress(quiet=True)
        config = self._checked(draws=options.entries)
        self.teacher = self.registry.build("teacher", config.teacher)
        self.tokenizer = self.teacher.tokenizer()
        self.data = {split: self._split(split, config) for split in ("train", "eval")}
        self.student = self.cache / "student"
        if not (self.student / "config.json").exists():
            initialise_student(config.student, teacher_source=self.teacher.pretrained(), directory=self.student, seed=0)
        layers = [layer + 1 for layer in options.layers]
        self.states = RememberedStates(self.teacher.model.get_decoder(), layers)
        batches = [batch for split in self.data.values() for batch in split.batches(8)]
        self.states.remember(batches, self.cache / "states.pt")
        self.draws = self._draws()
        self.config = self._checked(draws=self.draws)

    def _same_settings(self) -> None:
        path, wanted = self.cache / "settings.json", settings(self.options)
        if not path.exists():
            save(wanted, path)
        elif load(path) != wanted:
            raise SystemExit(f"{path} holds other settings, {load(path)}: name another --cache, or remove it")

    def _checked(self, *, draws: int) -> Any:
        """The run file of all arms, past every check that `distill validate` makes."""
        raw = RawRunFile(run_file(self.options, draws=draws), "objective_table")
        check_run(raw, registry=self.registry)
        return run_config(self.options, draws=draws)

    def _split(self, split: str, config: Any) -> TokenDataset:
        directory = self.cache / "data" / split
        if (directory / "data.json").exists():
            return TokenDataset.open(directory)
        return prepare_data(
            split, config.data, tokenizer=self.tokenizer, directory=directory, registry=self.registry,
            progress=self.quiet,
        )  # fmt: skip

    @torch.no_grad()
    def _draws(self) -> int:
        """Draws of multinomial sampling that hold as many different ids, on average, as the others have entries."""
        hidden_ND = []
        for batch in self.data["train"].batches(1):
            hidden_ND.append(batch.rows().select(self.states(batch.input_ids_BT, batch.attention_mask_BT)[0]))
            if sum(map(len, hidden_ND)) >= DRAWS_ROWS:
                break
        head = self.teacher.model.get_output_embeddings()
        absent = [torch.log1p(-dense_kl.logits(part, head).softmax(1)) for part in hidden_ND]
        return draws_for_unique(absent, self.options.entries)

    def stored(self, name: str, seed: int) -> StoredSignals:
        """The finished store of a target; of a sample, that of the seed."""
        capturing = next(one for one in self.config.captures if one.name == name)
        directory = self.cache / "stores" / (f"{name}-{seed}" if name in SAMPLES else name)
        capture(self.teacher, self.data["train"], capturing, directory, seed=seed, progress=self.quiet)
        return StoredSignals(directory)

    def trained(self, arm: Arm, seed: int, directory: Path) -> float:
        """Trains the arm's student into `directory`; returns the loss of the last step."""
        config = self.config.trainings()["student" if arm.name == HARD else arm.name]
        teacher = {"none": None, "live": self.teacher}.get(config.teacher)
        if config.teacher == "store":
            teacher = self.stored(config.store, seed)
        result = train(
            student_dir=self.student, student=self.config.student, tokenizer=self.tokenizer,
            train_data=self.data["train"], eval_data=None, config=config, teacher=teacher, directory=directory,
            seed=seed, registry=self.registry, progress=self.quiet,
        )  # fmt: skip
        return result.loss

    def measured(self, models: dict[str, EvaluationTarget], directory: Path) -> dict[str, dict[str, list[float]]]:
        """By model and metric, the sum over the rows of each held-out document, in the order of `documents`."""
        evaluate(
            models, teacher=self.teacher, data=self.data["eval"], config=self.config.evaluate, registry=self.registry,
            directory=directory, measure_speed=False,
        )  # fmt: skip
        sums: dict[str, dict[str, dict[str, float]]] = {}
        for line in (directory / "documents.jsonl").read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            sums.setdefault(row["model"], {}).setdefault(row["metric"], {})[row["document"]] = row["sum"]
        documents = self.documents()
        return {
            model: {
                metric: [round(found[metric][document], 5) for document in documents]
                for metric in HIGHER_IS_BETTER
                if metric in found
            }
            for model, found in sums.items()
        }

    def documents(self) -> dict[str, int]:
        """Rows of each held-out document."""
        rows: dict[str, int] = {}
        for sequence in self.data["eval"]:
            rows[sequence.document] = rows.get(sequence.document, 0) + int((sequence.labels[1:] != -100).sum())
        return rows

    def start(self) -> dict[str, Any]:
        """The teacher and the student before training."""
        models = {
            TEACHER: EvaluationTarget(self.teacher.model, is_teacher=True, tokenizer=self.tokenizer),
            UNTRAINED: EvaluationTarget(self.student),
        }
        return self.measured(models, self.cache / "start")

    def unit(self, arm: Arm, seed: int) -> dict[str, Any]:
        """One arm under one seed: trained, measured, and its weights removed."""
        directory = self.cache / "training" / f"{arm.name}-{seed}"
        shutil.rmtree(directory, ignore_errors=True)  # what an interrupted run left
        started_s = time.process_time()
        loss = self.trained(arm, seed, directory)
        found = self.measured({"student": EvaluationTarget(directory / "model")}, directory / "evaluation")
        shutil.rmtree(directory)
        return {
            "arm": arm.name,
            "seed": seed,
            "last_loss": round(loss, 5),
            "cpu_s": round(time.process_time() - started_s, 1),
            "sums": found["student"],
        }


def unit_path(options: argparse.Namespace, arm: str, seed: int) -> Path:
    return Path(options.cache) / "units" / f"{arm}-{seed}.json"


def chosen(options: argparse.Namespace) -> list[Arm]:
    """The arms asked for, in the table's order."""
    known = arms(options)
    unknown = sorted(set(options.arms or ()) - {arm.name for arm in known})
    if unknown:
        raise SystemExit(f"objective_table: --arms: no arm {unknown}; there are {', '.join(arm.name for arm in known)}")
    return [arm for arm in known if options.arms is None or arm.name in options.arms]


def missing(options: argparse.Namespace) -> list[tuple[Arm, int]]:
    """(arm, seed) without a file, seed by seed."""
    wanted = [(arm, seed) for seed in range(options.seeds) for arm in chosen(options)]
    return [(arm, seed) for arm, seed in wanted if not unit_path(options, arm.name, seed).exists()]


def gathered(options: argparse.Namespace, about: dict[str, Any]) -> dict[str, Any]:
    """The result: what is common to all, and every unit that has a file."""
    paths = [unit_path(options, arm.name, seed) for seed in range(options.seeds) for arm in arms(options)]
    command = argparse.Namespace(**{**vars(options), "arms": None})
    return {
        "benchmark": "objective_table",
        "command": command_line(command),
        **about,
        "units": [load(path) for path in paths if path.exists()],
    }


def about(options: argparse.Namespace, experiment: Experiment) -> dict[str, Any]:
    """What is common to all units, kept in the cache."""
    path = Path(options.cache) / "about.json"
    if not path.exists():
        train_data, documents = experiment.data["train"], experiment.documents()
        words = {"entries": options.entries, "wide": options.wide, "draws": experiment.draws,
                 "vocabulary": f"{experiment.teacher.vocabulary().size:,}"}  # fmt: skip
        found = {
            "machine": machine(),
            "settings": settings(options),
            "arms": [
                {"name": arm.name, "objective": arm.objective, "target": arm.target.format(**words)}
                for arm in arms(options)
            ],
            "data": {
                "train_sequences": len(train_data),
                "train_documents": len(train_data.summary["documents"]),
                "train_rows": sum(int((sequence.labels[1:] != -100).sum()) for sequence in train_data),
                "documents": list(documents),
                "rows": list(documents.values()),
            },
            "start": experiment.start(),
        }
        save(found, path)
    return load(path)


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measure the units that have no file yet."""
    chosen(options)  # an unknown arm is refused before anything is made
    if options.epochs < 1 or math.ceil(options.steps * options.batch / options.epochs) * options.epochs != (
        options.steps * options.batch
    ):
        raise SystemExit(
            "objective_table: --steps times --batch must be a multiple of --epochs, so that epochs are whole"
        )
    Path(options.cache).mkdir(parents=True, exist_ok=True)
    with run_lock(Path(options.cache)), without_progress_bars():
        return _run(options)


def _run(options: argparse.Namespace) -> dict[str, Any]:
    experiment = Experiment(options)
    common = about(options, experiment)
    for arm, seed in missing(options):
        found = experiment.unit(arm, seed)
        save(found, unit_path(options, arm.name, seed))
        result = gathered(options, common)
        if options.json:
            save(result, Path(options.json))
        kl = sum(found["sums"]["forward_kl"]) / sum(common["data"]["rows"])
        print(f"seed {seed}, {arm.name}: KL {kl:.4f}, {found['cpu_s']} s", file=sys.stderr, flush=True)
    return gathered(options, common)
