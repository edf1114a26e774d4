"""The synthesizer ``generator-matching``: a language model taught to write texts that give the real gradient.

Legend: n generated texts of a class, T positions, P matched parameters.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from distill_core.engine.data import collate
from distill_synthesis.matching.randomness import generator
from distill_synthesis.matching.state import State, load_state
from distill_synthesis.text_matching.descent import adam, new_moments
from distill_synthesis.text_matching.language_model import IGNORE, LanguageModel
from distill_synthesis.text_matching.network import TextNetwork
from distill_synthesis.text_matching.options import GeneratorMatchingOptions
from distill_synthesis.text_matching.synthesizer import Draft, TextSynthesizer


class GeneratorMatching(TextSynthesizer):
    """DiLM (arXiv 2404.00264): text is discrete, but the weight that a generator gives to a text is not.

    A language model learns the real texts by class. Then, for every class, it writes n texts; their losses in a student
    are weighted by softmax(mean log-likelihood / temperature), and the distance between the gradient of this weighted
    loss and the real one moves the generator, through the weights alone. In the end it writes candidates.
    """

    NAME = "generator-matching"
    options: GeneratorMatchingOptions

    def candidates(self, directory: Path) -> Iterator[Draft]:
        options, model = self.options, self.language_model()
        trained = model.trained(directory, self.key)
        state = load_state(directory, self.key)
        if state is None:
            weights = {name: x.clone() for name, x in trained.items()}
            state = State(self.key, 0, weights, new_moments(weights))
        for tensors in (state.variables, state.velocity):
            tensors.update({name: tensor.to(self.device) for name, tensor in tensors.items()})
        while state.iteration < options.iterations:
            for _ in range(min(options.checkpoint_iterations, options.iterations - state.iteration)):
                self._step(model, state)
            state.save(directory)
        self.state = state
        weights = _weights(state)
        for number in range(self.texts.classes):
            wanted = options.candidates * self.wanted(number)
            drawing = generator(self.seed, "candidates", number)
            for row, content in enumerate(model.sample(weights, [number] * wanted, options.top_p, drawing)):
                yield Draft(content, number, {"iteration": state.iteration, "row": row})

    def described(self) -> dict[str, Any]:
        """The distance before and after."""
        values = self.state.values
        tenth = max(1, len(values) // 10)
        if not values:
            return {"iterations": 0}
        return {
            "iterations": self.state.iteration,
            "distance_first_tenth": sum(values[:tenth]) / tenth,
            "distance_last_tenth": sum(values[-tenth:]) / tenth,
        }

    def matched(
        self,
        network: TextNetwork,
        parameters: Sequence[Tensor],
        real: Sequence[Tensor],
        contents: Sequence[Sequence[int]],
        number: int,
        likelihood_n: Tensor,
    ) -> Tensor:
        """The distance of generated texts of a class, differentiable by their mean log-likelihoods.

        Args:
            network, parameters: where gradients are taken; leaves of the network.
            real: P tensors.
            contents: n texts.
            number: their class.
            likelihood_n: by the generator, with its graph.
        """
        weight_n = (likelihood_n / self.options.weight_temperature).softmax(0)
        batch = collate([self.texts.framed(content, number) for content in contents])
        loss = (weight_n * network.losses(parameters, batch)).sum()
        gradient = network.gradient(loss, parameters, differentiable=True)
        return self.distance(real)(gradient)

    def _step(self, model: LanguageModel, state: State) -> None:
        options, iteration = self.options, state.iteration
        if iteration % options.refresh_iterations == 0:
            state.variables["samples"] = self._generated(model, state)
        network, parameters = self.networks.at(iteration)
        leaves = {name: x.clone().requires_grad_() for name, x in _weights(state).items()}
        found = {name: torch.zeros_like(x) for name, x in leaves.items()}
        total = 0.0
        for number in range(self.texts.classes):
            contents = _contents(state.variables["samples"][number])
            if not contents:
                continue
            real = self.networks.real_gradient(network, parameters, number, iteration)
            rows = model.rows(contents, [number] * len(contents))
            value = self.matched(network, parameters, real, contents, number, model.log_likelihood(leaves, rows))
            total += float(value.detach()) / self.texts.classes
            self._add(found, (1 - options.language_share) / self.texts.classes * value, leaves)
        self.check_finite(total, iteration)
        if options.language_share:
            self._add(found, options.language_share * model.real_loss(leaves, "beside", iteration), leaves)
        weights = _weights(state)
        adam(weights, found, state.velocity, rate=options.learning_rate, step=iteration)
        state.iteration += 1
        state.values.append(total)

    def _add(self, found: dict[str, Tensor], loss: Tensor, leaves: Mapping[str, Tensor]) -> None:
        for (name, total), g in zip(found.items(), torch.autograd.grad(loss, list(leaves.values())), strict=True):
            found[name] = total + g

    def _generated(self, model: LanguageModel, state: State) -> Tensor:
        """[K, n, T] ids of texts written now, -100 pads; none twice in a class, empty ones left out."""
        made = torch.full((self.texts.classes, self.options.samples, self.options.length_tokens), IGNORE)
        for number in range(self.texts.classes):
            drawing = generator(self.seed, "samples", number, state.iteration)
            drawn = model.sample(_weights(state), [number] * self.options.samples, self.options.top_p, drawing)
            for row, content in enumerate(dict.fromkeys(content for content in drawn if content)):
                made[number, row, : len(content)] = torch.tensor(content)
        return made


def _weights(state: State) -> dict[str, Tensor]:
    """The generator's own among the state's tensors."""
    return {name: x for name, x in state.variables.items() if name != "samples"}


def _contents(samples_nT: Tensor) -> list[list[int]]:
    return [row for row in ([one for one in ids if one != IGNORE] for ids in samples_nT.tolist()) if row]
