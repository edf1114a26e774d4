"""The students that are matched through: initial ones, and the same after some steps on real texts.

Legend: P matched parameters, K classes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from distill_core.engine.data import collate
from distill_core.interfaces import SynthesisContext
from distill_core.types import TokenBatch
from distill_synthesis.matching.coresets import random_choice
from distill_synthesis.matching.randomness import generator
from distill_synthesis.matching.state import State, load_state
from distill_synthesis.text_matching.descent import adam, new_moments
from distill_synthesis.text_matching.network import TextNetwork
from distill_synthesis.text_matching.options import TextMatchingOptions
from distill_synthesis.text_matching.texts import LabelledTexts

Parameters = list[Tensor]


def seed_of(*key: object) -> int:
    """A number below 2^31 that depends on the key alone."""
    return int.from_bytes(hashlib.sha256(repr(key).encode()).digest()[:4], "big") >> 1


class Networks:
    """Students and their states; those that are on disk are not trained again.

    Args:
        ctx: makes students.
        options: how many, how long they are trained.
        texts: real ones.
        directory: of the synthesizer.
        key: what the synthesis depends on.
        device: where they lie.
    """

    def __init__(
        self,
        ctx: SynthesisContext,
        options: TextMatchingOptions,
        texts: LabelledTexts,
        directory: Path,
        key: str,
        device: torch.device,
    ) -> None:
        self.seed, self.options, self.texts, self.device = ctx.seed, options, texts, device
        self.networks: list[TextNetwork] = []
        self.states: list[list[Parameters]] = []
        for number in range(options.networks):
            model = ctx.student(seed_of(ctx.seed, "student", number)).to(device)
            self.networks.append(TextNetwork(model, options.matched, next_token=not texts.labels))
            self.networks[-1].check_ids(max(int(sequence.input_ids.max()) for sequence in texts.sequences))
            self.states.append(self._states(number, directory, key))

    def at(self, *key: object) -> tuple[TextNetwork, Parameters]:
        """A student in one of its states, drawn by a key."""
        drawing = generator(self.seed, "network", *key)
        number = int(torch.randint(len(self.networks), (), generator=drawing))
        states = self.states[number]
        state = states[int(torch.randint(len(states), (), generator=drawing))]
        return self.networks[number], self.networks[number].leaves(state)

    def batch(self, number: int, *key: object) -> TokenBatch:
        """Real texts of a class, drawn by a key."""
        members = self.texts.of_class(number)
        drawn = random_choice(len(members), self.options.real_batch, generator(self.seed, "real", number, *key))
        return collate([self.texts.sequences[int(index)] for index in members[drawn]])

    def real_gradient(
        self, network: TextNetwork, parameters: Sequence[Tensor], number: int, *key: object
    ) -> list[Tensor]:
        """P tensors, of the mean loss of real texts of a class, at leaves of the network."""
        return network.gradient(network.losses(parameters, self.batch(number, *key)).mean(), parameters)

    @torch.no_grad()
    def votes(self, batch: TokenBatch) -> Tensor:
        """[B, K] mean probabilities of all students in their last state."""
        shares = [
            net.logits(states[-1], batch).softmax(-1) for net, states in zip(self.networks, self.states, strict=True)
        ]
        return torch.stack(shares).mean(0)

    def _states(self, number: int, directory: Path, key: str) -> list[Parameters]:
        file, network = f"state/network-{number}.pt", self.networks[number]
        wanted = self._kept()
        state = load_state(directory, key, file)
        if state is None:
            state = State(key, wanted[-1], self._trained(number, network, wanted), {})
            state.save(directory, file)
        names = range(len(network.names))
        return [[state.variables[f"{step}:{index}"].to(self.device) for index in names] for step in wanted]

    def _kept(self) -> list[int]:
        """After how many steps a state is kept."""
        last, count = self.options.network_steps, self.options.network_states
        return sorted({round(last * index / max(1, count - 1)) for index in range(count)}) if count > 1 else [last]

    def _trained(self, number: int, network: TextNetwork, wanted: Sequence[int]) -> dict[str, Tensor]:
        parameters = {str(index): p for index, p in enumerate(network.initial)}
        moments, found = new_moments(parameters), {}
        for step in range(wanted[-1] + 1):
            if step in wanted:
                found.update({f"{step}:{name}": p.clone() for name, p in parameters.items()})
            if step == wanted[-1]:
                break
            leaves = [p.clone().requires_grad_() for p in parameters.values()]
            loss = network.losses(leaves, self._mixed("train", number, step)).mean()
            gradients = dict(zip(parameters, torch.autograd.grad(loss, leaves, materialize_grads=True), strict=True))
            adam(parameters, gradients, moments, rate=self.options.network_learning_rate, step=step)
        return found

    def _mixed(self, *key: object) -> TokenBatch:
        """As many real texts of each class, ``real_batch`` in all (one of each at least), drawn by a key."""
        each = max(1, self.options.real_batch // self.texts.classes)
        chosen: list[int] = []
        for number in range(self.texts.classes):
            members = self.texts.of_class(number)
            chosen += members[random_choice(len(members), each, generator(self.seed, *key, number))].tolist()
        return collate([self.texts.sequences[index] for index in chosen])
