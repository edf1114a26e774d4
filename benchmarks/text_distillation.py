"""Few synthetic texts against real ones chosen in several ways, and all of them: accuracy of fresh classifiers.

Ten chapters of ICD-10-CM, a category in one split only; the accuracy is the mean over chapters of the share that is
right. Fresh networks: a random block and head on frozen word embeddings (text_data.py), AdamW 2e-3 falling to
zero, weight decay 0.01; 60 steps on all texts of a small set, 300 of 64 texts where there are more. Every network
trained is one line of the result file: a run that finds lines of the same settings goes on after them, and a synthetic
set that was interrupted goes on from its state in `--work`.

Legend: N texts, T tokens, D channels, K chapters.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional

from benchmarks.result import command_line
from benchmarks.set_accuracy import accuracy_table, measure
from benchmarks.text_data import CHAPTERS, LENGTH_TOKENS, new_classifier, records, tokenizer
from distill_core.config import ComponentRef, DataConfig, SplitConfig
from distill_core.engine.prepare import sequences_of
from distill_core.interfaces import SynthesisContext
from distill_core.registry import get_registry
from distill_synthesis.matching.coresets import herding, k_center, random_choice
from distill_synthesis.matching.randomness import generator
from distill_synthesis.text_matching.attention_labels import FIELD, attended, attention_divergence
from distill_synthesis.text_matching.gradient_matching_text import EMBEDDINGS_FILE

RATE, DECAY, STEPS, STEPS_OF_ALL, BATCH = 2e-3, 0.01, 60, 300, 64

STUDENTS: dict[str, Any] = {
    "networks": 2,
    "network_steps": 100,
    "network_states": 2,
    "language_model": {"steps": 200},
}
"""Of every synthesizer: small enough that the table takes minutes."""

MATCHED = {"use": "gradient-matching-text", "iterations": 8, "inner_steps": 5, "pool_rounds": 3, **STUDENTS}
GENERATED = {"use": "generator-matching", "samples": 24, "refresh_iterations": 10, "candidates": 6, **STUDENTS}
SYNTHESIZERS: dict[str, dict[str, Any]] = {
    "real, chosen by gradient": {**MATCHED, "iterations": 0, "candidates": 6, "likelihood": "none"},
    "generated": {**GENERATED, "iterations": 0, "choose": "random", "wrong_label": "keep"},
    "generated, k-center": {**GENERATED, "iterations": 0},
    "generator matching": {**GENERATED, "iterations": 20},
    "gradient matching": MATCHED,
    "gradient matching, soft labels": {**MATCHED, "labels": "soft"},
    "gradient matching, soft and attention labels": {**MATCHED, "labels": "soft", "attention_labels": "last-block"},
    "gradient matching, embeddings": {**MATCHED, "candidates": 1},
}
"""The last is no text: what the descent leaves before it is projected."""

DETERMINISTIC = ("herding", "k-center", "class mean")
BASELINES = ("random", "random, soft labels", *DETERMINISTIC)
METHODS = ("full", *BASELINES, *SYNTHESIZERS)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Budget and how often."""
    parser.add_argument("--texts", type=int, default=20, help="synthetic texts in all, default 20")
    parser.add_argument("--sets", type=int, default=10, help="synthetic sets of each method, default 10")
    parser.add_argument("--networks", type=int, default=2, help="networks trained on each set, default 2")
    parser.add_argument("--draws", type=int, default=10, help="sets of the random baselines, default 10")
    parser.add_argument("--only", nargs="+", choices=METHODS, metavar="METHOD", default=None, help="default: all")
    parser.add_argument("--work", metavar="DIR", default="runs/text_distillation", help="states of unfinished sets")


def settings(options: argparse.Namespace) -> dict[str, Any]:
    """What must be equal for lines to stand in one table."""
    return {"texts": options.texts}


def units(options: argparse.Namespace) -> Iterator[tuple[str, int, int]]:
    """(method, set, network): what is one set is judged by as many networks as all sets of the others."""
    for method in options.only or METHODS:
        sets, networks = options.sets, options.networks
        if method in ("full", *DETERMINISTIC):
            sets, networks = 1, options.sets * options.networks
        elif method in BASELINES:
            sets = options.draws
        for number in range(sets):
            for network in range(networks):
                yield method, number, network


class TrainingSet:
    """What a classifier learns from.

    Args:
        embeddings_NTD: of the tokens.
        mask_NT: 1 on tokens.
        shares_NK: probabilities of the chapters.
        attention_NSHT: attention labels of the first token, 0 on padding; None: none.
    """

    def __init__(
        self, embeddings_NTD: Tensor, mask_NT: Tensor, shares_NK: Tensor, attention_NSHT: Tensor | None = None
    ) -> None:
        self.embeddings_NTD, self.mask_NT, self.shares_NK = embeddings_NTD, mask_NT, shares_NK
        self.attention_NSHT = attention_NSHT

    def __len__(self) -> int:
        return len(self.mask_NT)


class Scene:
    """The data of a run, and what is made of them once."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.names = options, list(CHAPTERS)
        self.train, self.test = records("train"), records("eval")
        self.tokenizer = tokenizer()
        self.table_VD = new_classifier(0).get_input_embeddings().weight.detach()
        self.real, self.held_out = self.encoded(self.train), self.encoded(self.test)
        self.class_N = self.real.shares_NK.argmax(1)
        self.made: dict[tuple[str, int], TrainingSet] = {}

    def encoded(self, rows: Sequence[dict[str, Any]]) -> TrainingSet:
        """Records as a training set; records of one text with weights are one row with a soft label."""
        merged: dict[tuple[str, str], Tensor] = {}
        for row in rows:
            shares = merged.setdefault((row["document"], row["text"]), torch.zeros(len(self.names)))
            shares[self.names.index(row["label"])] += row.get("weight", 1.0)
        texts = [text for _, text in merged]
        found = self.tokenizer(texts, truncation=True, max_length=LENGTH_TOKENS + 2, padding=True, return_tensors="pt")
        shares_NK = torch.stack(list(merged.values()))
        embeddings_NTD = self.table_VD[found["input_ids"]]
        shares_NK = shares_NK / shares_NK.sum(1, keepdim=True)
        labels = {row["document"]: torch.tensor(row[FIELD]["probabilities"]) for row in rows if FIELD in row}
        attention_NSHT = None
        if labels:
            longest = found["attention_mask"].shape[1]
            padded = [
                functional.pad(labels[document], (0, longest - labels[document].shape[2])) for document, _ in merged
            ]
            attention_NSHT = torch.stack(padded)
        return TrainingSet(embeddings_NTD, found["attention_mask"], shares_NK, attention_NSHT)

    @torch.enable_grad()
    def trained(self, data: TrainingSet, *key: object) -> Any:
        """A fresh network after training; the key gives its start and the order of the texts."""
        drawing = generator("text evaluation", *key)
        model = new_classifier(int(torch.randint(2**31, (), generator=drawing))).train()
        model.get_input_embeddings().requires_grad_(False)
        own = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(own, lr=RATE, weight_decay=DECAY)
        steps = STEPS if len(data) <= BATCH else STEPS_OF_ALL
        for step in range(steps):
            optimizer.param_groups[0]["lr"] = RATE * (1 - step / steps)
            batch = random_choice(len(data), BATCH, drawing)
            optimizer.zero_grad()
            self.loss(model, data, batch).backward()
            optimizer.step()
        return model.eval()

    def loss(self, model: Any, data: TrainingSet, batch: Tensor) -> Tensor:
        """Cross-entropy; with attention labels their divergence is added, as the objective attention-labels has it."""
        if data.attention_NSHT is None:
            return functional.cross_entropy(self.logits(model, data, batch), data.shares_NK[batch])
        model.set_attn_implementation("eager")
        output = model(
            inputs_embeds=data.embeddings_NTD[batch], attention_mask=data.mask_NT[batch], output_attentions=True
        )
        wanted = data.attention_NSHT[batch]
        found = attended(output.attentions, torch.zeros(len(batch), dtype=torch.int64), wanted.shape[1])
        entropy = functional.cross_entropy(output.logits, data.shares_NK[batch])
        return entropy + attention_divergence(wanted, found).mean()

    def logits(self, model: Any, data: TrainingSet, batch: Tensor) -> Tensor:
        """[n, K]."""
        found: Tensor = model(inputs_embeds=data.embeddings_NTD[batch], attention_mask=data.mask_NT[batch]).logits
        return found

    @cached_property
    def teacher(self) -> Any:
        """A network trained on all texts: for soft labels and for the features of coresets."""
        return self.trained(self.real, "teacher")

    @cached_property
    @torch.no_grad()
    def features_ND(self) -> Tensor:
        """Mean last hidden state of the teacher over each text's tokens."""
        parts = []
        for rows in torch.arange(len(self.real)).split(256):
            mask_NT1 = self.real.mask_NT[rows][..., None]
            hidden = self.teacher.base_model(
                inputs_embeds=self.real.embeddings_NTD[rows], attention_mask=self.real.mask_NT[rows]
            ).last_hidden_state
            parts.append((hidden * mask_NT1).sum(1) / mask_NT1.sum(1))
        return torch.cat(parts)

    def training_set(self, method: str, number: int) -> TrainingSet:
        """The set of a method."""
        if (method, number) not in self.made:
            self.made = {(method, number): self._training_set(method, number)}
        return self.made[method, number]

    def _training_set(self, method: str, number: int) -> TrainingSet:
        if method == "full":
            return self.real
        if method in BASELINES:
            return self._chosen(method, number)
        found, directory = self.synthesized(method, number)
        return self.embeddings(directory) if method.endswith("embeddings") else self.encoded(found)

    def _chosen(self, method: str, number: int) -> TrainingSet:
        each, rest = divmod(self.options.texts, len(self.names))
        rules: dict[str, Callable[[Tensor, int, int], Tensor]] = {
            "herding": lambda own, count, label: herding(self.features_ND[own], count),
            "k-center": lambda own, count, label: k_center(self.features_ND[own], count),
            "class mean": lambda own, count, label: self._nearest_to_mean(own, count),
        }
        rule = rules.get(method, lambda own, count, label: random_choice(len(own), count, generator(number, label)))
        parts = []
        for label in range(len(self.names)):
            own = (self.class_N == label).nonzero()[:, 0]
            parts.append(own[rule(own, each + (label < rest), label)])
        rows = torch.cat(parts)
        shares_NK = self.real.shares_NK[rows]
        if method == "random, soft labels":
            with torch.no_grad():
                shares_NK = self.logits(self.teacher, self.real, rows).softmax(1)
        return TrainingSet(self.real.embeddings_NTD[rows], self.real.mask_NT[rows], shares_NK)

    def _nearest_to_mean(self, own: Tensor, count: int) -> Tensor:
        features = self.features_ND[own]
        return (features - features.mean(0)).norm(dim=1).argsort(stable=True)[:count]

    def synthesized(self, method: str, number: int) -> tuple[list[dict[str, Any]], Path]:
        """A set by the component, from its state if there is one, and where that lies."""
        build = get_registry().build
        task = build("task", {"use": "sequence-classification", "labels": self.names})
        split = SplitConfig(source=ComponentRef(use="jsonl"))
        data = DataConfig(train=split, eval=split, sequence_length_tokens=LENGTH_TOKENS + 2)

        def sequences(record: Any) -> list[Any]:
            return sequences_of(record, record.get("document", ""), tokenizer=self.tokenizer, data=data, task=task)

        made = build("synthesizer", {**SYNTHESIZERS[method], "texts": self.options.texts})
        made.build(
            SynthesisContext(
                number,
                build,
                lambda name: None,
                lambda: self.tokenizer,
                print,
                task=task,
                student=new_classifier,
                sequences=sequences,
            )
        )
        digest = hashlib.sha256(json.dumps([settings(self.options), SYNTHESIZERS[method]]).encode()).hexdigest()[:12]
        directory = Path(self.options.work) / f"{re.sub('[^a-z]+', '-', method)}-{digest}-{number}"
        found = list(made.synthesize(self.train, directory))
        (directory / "texts.json").write_text(json.dumps([found, made.summary()], indent=1), encoding="utf-8")
        return found, directory

    def embeddings(self, directory: Path) -> TrainingSet:
        """What was learned before it became text, between the special tokens."""
        held = load_file(directory / EMBEDDINGS_FILE)
        whole, inner = (self.tokenizer("a", add_special_tokens=special)["input_ids"] for special in (True, False))
        start = whole.index(inner[0])
        before, after = self.table_VD[whole[:start]], self.table_VD[whole[start + len(inner) :]]
        rows = []
        for x_LD, tokens_L in zip(held["x"], held["tokens"], strict=True):
            rows.append(torch.cat([before, x_LD[tokens_L >= 0], after]))
        longest = max(map(len, rows))
        embeddings = torch.stack([functional.pad(row, (0, 0, 0, longest - len(row))) for row in rows])
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
        return TrainingSet(embeddings, mask, functional.one_hot(held["class"], len(self.names)).float())

    @torch.no_grad()
    def measured(self, method: str, number: int, network: int) -> float:
        """Held-out accuracy of one fresh network, the mean over chapters."""
        with torch.enable_grad():
            data = self.training_set(method, number)
        model = self.trained(data, method, number, network)
        data = self.held_out
        parts = [self.logits(model, data, rows).argmax(1) for rows in torch.arange(len(data)).split(256)]
        right, wanted = torch.cat(parts), data.shares_NK.argmax(1)
        shares = [float((right[wanted == k] == k).float().mean()) for k in range(len(self.names))]
        return sum(shares) / len(shares)


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measure what the result file lacks."""
    return measure(options, settings(options), list(units(options)), SYNTHESIZERS, Scene, command=command_line(options))


def table(result: dict[str, Any]) -> str:
    """Markdown: accuracy, share of the full accuracy, share of the gap from random to full that is closed."""
    return (
        f"{result['settings']['texts']} texts, ten chapters; ± is the standard error over sets (over networks where "
        "there is one set); the gap's takes random and full as given; s.e. is the standard error of the difference; "
        f"{result['machine']}.\n\n" + accuracy_table(result["measurements"], METHODS, over_random=True)
    )
