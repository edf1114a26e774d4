"""Selectors towards a target in a pool of which a small share is like it: loss of a student on held-out target text.

A small Llama has learned general text. Each selector keeps the same number of sequences of the same pool, the student
learns them for the same number of steps, and its loss is taken on target documents that nobody saw. A seed is another
pool, other examples of the target, and another order. `target, known` keeps the sequences that come from the target's
domain: what a selector could reach that knew. `--mixture same` makes a pool of nothing but the target's domain: there
is nothing to find. A run that finds units of the same settings in `--json` measures the others only.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import time
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.measure import machine
from benchmarks.result import command_line, earlier, save
from benchmarks.selection_data import MIXTURES, Draw, Mixture
from distill_core.config import StudentConfig
from distill_core.engine.data import TokenSequence, collate
from distill_core.engine.features import Features
from distill_core.engine.features.sequence_model import SequenceModel
from distill_core.engine.likeness import likeness, token_shares
from distill_core.engine.manifest import fingerprint
from distill_core.engine.progress import Progress
from distill_core.engine.statistics import holm, paired_difference, verdict
from distill_core.interfaces import Budget, SelectionContext
from distill_core.registry import get_registry

KNOWN = "target, known"
GRADIENTS = {"dim": 512, "warm_up": {"learning_rate": 1e-3}}
SELECTORS: dict[str, dict[str, Any]] = {
    "random": {"use": "random"},
    "herding": {"use": "herding"},
    "k-center": {"use": "k-center"},
    "el2n": {"use": "el2n"},
    "dsir": {"use": "dsir"},
    "dsir, greatest weight": {"use": "dsir", "sample": False},
    "less": {"use": "less", **GRADIENTS},
    "trak": {"use": "trak", **GRADIENTS},
}
METHODS = (*SELECTORS, KNOWN)
BATCH = 8


def add_options(parser: argparse.ArgumentParser) -> None:
    """Sizes and seeds; the defaults take a few minutes of one core."""
    parser.add_argument("--mixture", choices=MIXTURES, default="eras", help="default eras")
    parser.add_argument("--pool", type=int, default=1200, help="sequences to choose from, default 1200")
    parser.add_argument("--share", type=float, default=0.05, help="of the target in the pool, and kept; default 0.05")
    parser.add_argument("--target", type=int, default=16, help="examples of the target, default 16")
    parser.add_argument("--window", type=int, default=64, help="tokens per sequence, default 64")
    parser.add_argument("--start-steps", type=int, default=600, help="of the student before selection, default 600")
    parser.add_argument("--steps", type=int, default=40, help="optimizer steps on what was selected, default 40")
    parser.add_argument("--held-out", type=int, default=200, help="held-out sequences, default 200")
    parser.add_argument("--seeds", type=int, default=5, help="default 5")
    parser.add_argument("--only", nargs="+", choices=METHODS, metavar="METHOD", default=None, help="default: all")
    parser.add_argument("--work", metavar="DIR", default="runs/selection", help="the student, unfinished selections")


def settings(options: argparse.Namespace) -> dict[str, Any]:
    """What must be equal for units to stand in one table."""
    names = ("mixture", "pool", "share", "target", "window", "start_steps", "steps", "held_out")
    return {name: getattr(options, name) for name in names}


def learn(
    model: Any, sequences: list[TokenSequence], *, steps: int, learning_rate: float, seed: int, batch: int = BATCH
) -> None:
    """AdamW with a rate that falls linearly; passes over the sequences, each in an order of its own."""
    rng, order = np.random.default_rng(seed), []
    while len(order) < steps * batch:
        order += rng.permutation(len(sequences)).tolist()
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0.0)
    whole = SequenceModel(model, next_token=True)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = learning_rate * (1 - step / steps)
        optimizer.zero_grad(set_to_none=True)
        whole.losses(collate([sequences[i] for i in order[step * batch : (step + 1) * batch]])).mean().backward()
        optimizer.step()


class Scene:
    """Texts and the student that all selections start from, made once."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.mixture = Mixture(options.mixture, window=options.window, vocabulary=1024)
        rng = np.random.default_rng(0)
        chosen = rng.permutation(len(self.mixture.held_out))[: options.held_out]
        self.held_out = [self.mixture.held_out[int(i)] for i in chosen]
        self.work = Path(options.work)
        self._drawn: tuple[int, Draw] | None = None

    def draw(self, seed: int) -> Draw:
        if self._drawn is None or self._drawn[0] != seed:
            size = self.options
            self._drawn = (seed, self.mixture.draw(seed, pool=size.pool, share=size.share, target=size.target))
        return self._drawn[1]

    @cached_property
    def student(self) -> Path:
        """Directory of the student after general text."""
        options = self.options
        parts = {"mixture": options.mixture, "window": options.window, "steps": options.start_steps}
        directory = self.work / f"student-{fingerprint(parts)[:12]}"
        if not (directory / "config.json").exists():
            torch.manual_seed(0)
            config = LlamaConfig(
                vocab_size=1024, hidden_size=64, intermediate_size=192, num_hidden_layers=3, num_attention_heads=4,
                num_key_value_heads=4, max_position_embeddings=options.window, tie_word_embeddings=True,
                pad_token_id=None, bos_token_id=None, eos_token_id=None,
            )  # fmt: skip
            model = LlamaForCausalLM(config)
            learn(model, self.mixture.start, steps=options.start_steps, learning_rate=3e-3, seed=0, batch=16)
            model.save_pretrained(self.work / "unfinished")
            (self.work / "unfinished").rename(directory)
        return directory

    def model(self) -> Any:
        return LlamaForCausalLM.from_pretrained(self.student, dtype=torch.float32)

    def selected(self, method: str, seed: int) -> list[TokenSequence]:
        """What a selector keeps of the seed's pool."""
        draw, count = self.draw(seed), round(self.options.share * self.options.pool)
        if method == KNOWN:
            return [one for one in draw.pool if one.domain == "target"][:count]
        directory = self.work / f"{self.options.mixture}-{seed}"
        config = StudentConfig.model_validate({"init": {"model": str(self.student)}})
        features = Features(
            directory / "features", student=self.student, key=self.student.name, config=config, task=None,
            batch_sequences=32, progress=Progress(quiet=True),
        )  # fmt: skip
        (directory / "work").mkdir(parents=True, exist_ok=True)
        context = SelectionContext(
            pool=[TokenSequence(s.input_ids, s.labels, s.document, s.key) for s in draw.pool],  # no domain to read
            target=draw.target, budget=Budget(sequences=count), labels=(), seed=seed, features=features,
            directory=directory / "work", say=print,
        )  # fmt: skip
        ranking = get_registry().build("selector", SELECTORS[method]).select(context)
        return [draw.pool[int(i)] for i in ranking.order[:count]]

    @torch.no_grad()
    def loss(self, model: Any) -> float:
        """Nat per token on the held-out target."""
        whole = SequenceModel(model, next_token=True)
        starts = range(0, len(self.held_out), 32)
        return float(torch.cat([whole.losses(collate(self.held_out[i : i + 32])) for i in starts]).mean())

    def likeness(self, seed: int) -> float:
        """p value of the select stage's test whether pool and target differ, on shares of tokens."""
        draw = self.draw(seed)
        sides = [(token_shares(part), [one.document for one in part]) for part in (draw.pool, draw.target)]
        return round(likeness(*sides[0], *sides[1], features="token shares", seed=seed).p_value, 4)

    @cached_property
    def before(self) -> float:
        """Loss of the student before it learns anything selected."""
        return self.loss(self.model())

    def unit(self, method: str, seed: int) -> dict[str, Any]:
        """One selection, learned and judged."""
        started_s = time.process_time()
        kept = self.selected(method, seed)
        select_s, model = time.process_time() - started_s, self.model()
        learn(model, kept, steps=self.options.steps, learning_rate=1e-3, seed=seed)
        found = sum(one.domain == "target" for one in kept) / len(kept)
        return {
            "method": method, "seed": seed, "loss": round(self.loss(model), 5), "of_target": round(found, 4),
            "select_cpu_s": round(select_s, 2),
        }  # fmt: skip


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measure what the result file lacks; all methods have a seed before the next one begins."""
    result: dict[str, Any] = {
        "benchmark": "selection",
        "command": command_line(options),
        "machine": machine(),
        "settings": settings(options),
        "selectors": SELECTORS,
        "units": [],
        "likeness": {},
    }
    path = Path(options.json) if options.json else None
    if found := earlier(options.json, settings=result["settings"], selectors=SELECTORS):
        result |= {name: found[name] for name in ("units", "before", "likeness") if name in found}
    done = {(unit["method"], unit["seed"]) for unit in result["units"]}
    units = [(method, seed) for seed in range(options.seeds) for method in options.only or METHODS]
    missing = [unit for unit in units if unit not in done]
    unknown = [str(seed) for seed in range(options.seeds) if str(seed) not in result["likeness"]]
    if not missing and not unknown:
        return result
    scene = Scene(options)
    result["before"] = round(scene.before, 5)
    result["likeness"] |= {seed: scene.likeness(int(seed)) for seed in unknown}
    if path is not None:
        save(result, path)
    for number, (method, seed) in enumerate(missing):
        result["units"].append(scene.unit(method, seed))
        if path is not None:
            save(result, path)
        if all(other != seed for _, other in missing[number + 1 :]):
            shutil.rmtree(scene.work / f"{options.mixture}-{seed}", ignore_errors=True)
    return result


def losses(result: dict[str, Any], method: str) -> dict[int, float]:
    """By seed."""
    return {unit["seed"]: unit["loss"] for unit in result["units"] if unit["method"] == method}


def compared(result: dict[str, Any], reference: str) -> dict[str, tuple[float, float, str]]:
    """By method: difference to the reference paired by seed, its standard error, the verdict after Holm's correction.

    What every selector could at best reach is no rival and has no part in the correction.
    """
    base, pairs = losses(result, reference), {}
    for method in SELECTORS:
        own = losses(result, method)
        common = sorted(own.keys() & base.keys())
        if method != reference and len(common) > 1:
            pairs[method] = paired_difference(
                {str(seed): (own[seed], 1.0) for seed in common}, {str(seed): (base[seed], 1.0) for seed in common}
            )
    adjusted = holm([pair.p_value for pair in pairs.values()])
    return {
        method: (pair.difference, pair.standard_error, verdict(pair, higher_is_better=False, p_adjusted=p))
        for (method, pair), p in zip(pairs.items(), adjusted, strict=True)
    }


def table(result: dict[str, Any]) -> str:
    """Markdown: loss, differences to random and to n-grams, what was found of the target, and what it cost."""
    size = result["settings"]
    lines = [
        "| kept by | loss, nat/token | minus random | against random | minus dsir | against dsir | of the target, % "
        "| CPU s to select | seeds |",
        "|---|---:|---:|---|---:|---|---:|---:|---:|",
    ]
    against = {name: compared(result, name) for name in ("random", "dsir")}
    for method in METHODS:
        units = [unit for unit in result["units"] if unit["method"] == method]
        if not units:
            continue
        cells = [method, f"{statistics.mean(unit['loss'] for unit in units):.4f}"]
        for reference in ("random", "dsir"):
            found = against[reference].get(method)
            cells += ["", ""] if found is None else [f"{found[0]:+.4f} ± {found[1]:.4f}", found[2]]
        cells.append(f"{100 * statistics.mean(unit['of_target'] for unit in units):.1f}")
        cells += [f"{statistics.mean(unit['select_cpu_s'] for unit in units):.1f}", str(len(units))]
        lines.append("| " + " | ".join(cells) + " |")
    p_values = ", ".join(f"{p:.3f}" for p in result["likeness"].values())
    share = "nothing but the target's domain" if size["mixture"] == "same" else f"{100 * size['share']:g} % target"
    return (
        f"Mixture `{size['mixture']}`: {size['pool']} sequences of {size['window']} tokens, {share}; "
        f"{100 * size['share']:g} % kept with {size['target']} examples of the target; {size['steps']} steps of "
        f"{BATCH}; before them the loss is {result['before']:.4f}. ± is the standard error over seeds, paired; "
        f"verdicts at 5 % with Holm's correction. The select stage's test whether target and pool differ "
        f"gives p = {p_values} by seed; {result['machine']}.\n\n" + "\n".join(lines)
    )
