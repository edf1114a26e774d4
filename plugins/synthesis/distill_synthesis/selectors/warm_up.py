"""A short training before scores are taken: AdamW on a random share of the pool, a checkpoint per pass.

Checkpoints hold the trained weights with Adam's moments, lie in the selector's directory, and a killed warm-up goes on
after the last one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from distill_core.engine.data import collate
from distill_core.engine.features import ModelState
from distill_core.engine.features.features import data_key
from distill_core.engine.features.per_sample import linear_layers
from distill_core.engine.features.sequence_model import SequenceModel
from distill_core.engine.manifest import fingerprint
from distill_core.files import atomic_write_bytes, write_json
from distill_core.interfaces import SelectionContext
from distill_synthesis.selectors.options import WarmUpOptions
from distill_synthesis.selectors.strata import generator

BETAS, EPS = (0.9, 0.999), 1e-8
MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class Checkpoint:
    """The model after one pass.

    Args:
        path: file of weights and moments.
        key: what it depends on, for the store of features.
        steps: optimizer steps done.
        learning_rate: its mean over the pass.
    """

    path: Path
    key: str
    steps: int
    learning_rate: float

    def state(self, context: SelectionContext) -> ModelState:
        """The model, whose gradients stay themselves."""
        return ModelState(self.key, lambda: self._model(context))

    def adam_state(self, context: SelectionContext) -> ModelState:
        """The same model; its gradients become the update that Adam would make of each.

        ``m' = (b1 m + (1 - b1) g) / (1 - b1^(t+1))``, ``v'`` likewise with squares, update ``m' / (sqrt(v') + eps)``
        (2402.04333, section 3.1).
        """
        held = load_file(self.path)
        moments = {name: held[name] for name in held if name.endswith(MOMENTS)}

        def change(name: str, gradients_BOI: Tensor) -> Tensor:
            m, v = (moments[f"{name}.weight:{kind}"].to(gradients_BOI) for kind in MOMENTS)
            return adam_update(gradients_BOI, m, v, self.steps)

        return ModelState(f"{self.key} adam", lambda: self._model(context), change)

    def _model(self, context: SelectionContext) -> Any:
        model = context.features.fresh_model()
        held = load_file(self.path)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name in held:
                    parameter.copy_(held[name])
        return model


def adam_update(gradients: Tensor, m: Tensor, v: Tensor, steps: int) -> Tensor:
    """What Adam would do with each of these gradients after ``steps`` steps that left the moments m and v."""
    first = (BETAS[0] * m + (1 - BETAS[0]) * gradients) / (1 - BETAS[0] ** (steps + 1))
    second = (BETAS[1] * v + (1 - BETAS[1]) * gradients.square()) / (1 - BETAS[1] ** (steps + 1))
    return first / (second.sqrt() + EPS)


def warm_up(
    context: SelectionContext,
    options: WarmUpOptions,
    *,
    layers: str | None = None,
    whole: bool = False,
    network: int = 0,
) -> list[Checkpoint]:
    """Train the initial student; one checkpoint per pass.

    Args:
        context: of the selection.
        options: how long, on how much.
        layers: train only the weights of linear layers that this finds.
        whole: train every parameter instead.
        network: another number, another sample and order.
    """
    parts = {
        "student": context.features.initial().key,
        "data": data_key(context.pool),
        "options": options.model_dump(mode="json"),
        "layers": "whole" if whole else layers,
        "seed": [context.seed, network],
    }
    key = fingerprint(parts)
    directory = context.directory / f"warm-up-{key[:16]}"
    directory.mkdir(parents=True, exist_ok=True)
    found = list(_finished(directory, key))
    if len(found) < options.epochs:
        _train(context, options, layers=None if whole else (layers,), network=network, directory=directory, done=found)
        found = list(_finished(directory, key))
    return found


def _finished(directory: Path, key: str) -> Iterator[Checkpoint]:
    epoch = 0
    while (directory / f"epoch-{epoch}.json").is_file():
        said = json.loads((directory / f"epoch-{epoch}.json").read_text(encoding="utf-8"))
        path = directory / f"epoch-{epoch}.safetensors"
        yield Checkpoint(path, f"warm-up {key} epoch {epoch}", said["steps"], said["learning_rate"])
        epoch += 1


def _train(
    context: SelectionContext,
    options: WarmUpOptions,
    *,
    layers: tuple[str | None] | None,
    network: int,
    directory: Path,
    done: list[Checkpoint],
) -> None:
    rng = generator("warm-up", context.seed, network)
    count = max(1, round(options.share * len(context.pool)))
    sample = rng.permutation(len(context.pool))[:count]
    orders = [rng.permutation(sample) for _ in range(options.epochs)]
    model = SequenceModel(context.features.fresh_model(), next_token=context.pool[0].next_token)
    trained = _trained(model.model, layers)
    optimizer = torch.optim.AdamW(trained.values(), lr=options.learning_rate, betas=BETAS, eps=EPS, weight_decay=0.0)
    per_epoch = -(-count // options.batch_sequences)
    if done:
        _restore(trained, optimizer, done[-1])
    step = len(done) * per_epoch
    for epoch in range(len(done), options.epochs):
        rates = []
        for start in range(0, count, options.batch_sequences):
            rates.append(options.learning_rate * (1 - step / (options.epochs * per_epoch)))
            optimizer.param_groups[0]["lr"] = rates[-1]
            optimizer.zero_grad(set_to_none=True)
            chosen = orders[epoch][start : start + options.batch_sequences]
            model.losses(collate([context.pool[int(i)] for i in chosen])).mean().backward()
            optimizer.step()
            step += 1
        content = dict(_content(trained, optimizer))
        atomic_write_bytes(directory / f"epoch-{epoch}.safetensors", save(content))
        write_json(directory / f"epoch-{epoch}.json", {"steps": step, "learning_rate": sum(rates) / len(rates)})
        context.say(f"select: warm-up pass {epoch + 1} of {options.epochs} done ({step} steps)")


def _trained(model: nn.Module, layers: tuple[str | None] | None) -> dict[str, nn.Parameter]:
    """The parameters that learn, by name; all others are frozen."""
    chosen = None if layers is None else {f"{name}.weight" for name in linear_layers(model, layers[0])}
    found = {}
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(chosen is None or name in chosen)
        if parameter.requires_grad:
            found[name] = parameter
    return found


def _content(trained: Mapping[str, nn.Parameter], optimizer: torch.optim.Optimizer) -> Iterator[tuple[str, Tensor]]:
    for name, parameter in trained.items():
        yield name, parameter.detach().cpu().contiguous()
        state = optimizer.state.get(parameter, {})
        for kind in MOMENTS:
            yield f"{name}:{kind}", state.get(kind, torch.zeros_like(parameter)).cpu().contiguous()


def _restore(trained: Mapping[str, nn.Parameter], optimizer: torch.optim.Optimizer, last: Checkpoint) -> None:
    held = load_file(last.path)
    with torch.no_grad():
        for name, parameter in trained.items():
            parameter.copy_(held[name])
            moments = {kind: held[f"{name}:{kind}"].to(parameter) for kind in MOMENTS}
            optimizer.state[parameter] = {"step": torch.tensor(float(last.steps)), **moments}
