"""The synthesizer ``gradient-matching-text``: embeddings that give the real gradient, brought to readable tokens.

Legend: B texts, L most tokens of a text, T positions, D channels, K classes, R rounds, P matched parameters.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor
from torch.nn import functional

from distill_core.engine.data import collate
from distill_core.errors import DataError
from distill_core.files import atomic_write_bytes
from distill_synthesis.matching.coresets import random_choice
from distill_synthesis.matching.randomness import generator
from distill_synthesis.matching.state import State, load_state
from distill_synthesis.text_matching.admm import dual, pulled
from distill_synthesis.text_matching.attention_labels import as_label, as_logits
from distill_synthesis.text_matching.descent import adam, new_moments
from distill_synthesis.text_matching.network import Labels, TextNetwork
from distill_synthesis.text_matching.options import GradientMatchingTextOptions
from distill_synthesis.text_matching.projection import Likely, project
from distill_synthesis.text_matching.synthesizer import Draft, TextSynthesizer

EMBEDDINGS_FILE = "embeddings.safetensors"
"""Beside the state: what was learned before it became text. X [B, L, D], tokens [B, L] with -1 pads, class [B]."""

LEARNED = ("x", "labels", "attention")
"""Names of what may be learned, among the state's variables."""

FIRST_SHARE = 0.9
"""Of a text's own class in a soft label, before it is learned."""


class GradientMatchingText(TextSynthesizer):
    """GRADMM (arXiv 2502.17607): embeddings whose gradient is the real one, held to the table by ADMM.

    A round: a student in one of its states; for every class the distance between the gradient of its synthetic texts
    and that of real ones, minimised over their embeddings beside the pull to tokens; then every position is projected
    to a token that is likely after those before it, and the dual variables follow. The last projections are candidates;
    those that read as they were written, and as their class, and match best, stay.
    """

    NAME = "gradient-matching-text"
    options: GradientMatchingTextOptions

    def prepare(self, source: Iterable[Mapping[str, Any]], directory: Path) -> None:
        """As for all; attention labels need the place of a class.

        Raises:
            DataError: there is none.
        """
        super().prepare(source, directory)
        if self.options.attention_labels != "none" and not self.texts.labels:
            raise DataError(
                f"{self.NAME}: attention_labels is {self.options.attention_labels}, but the student predicts the next "
                "token: such a label stands at the place of a class. Give the run the task sequence-classification, or "
                "set attention_labels: none"
            )

    def candidates(self, directory: Path) -> Iterator[Draft]:
        options = self.options
        self.number_B = [n for n in range(self.texts.classes) for _ in range(options.candidates * self.wanted(n))]
        self.likely = self._likelihood(directory)
        state = load_state(directory, self.key)
        if state is None:
            state = self._first()
        for tensors in (state.variables, state.velocity):
            tensors.update({name: tensor.to(self.device) for name, tensor in tensors.items()})
        while state.iteration < options.iterations:
            for _ in range(min(options.checkpoint_iterations, options.iterations - state.iteration)):
                self._round(state)
            state.save(directory)
        self.state = state
        self._save_embeddings(state, directory)
        lengths = state.variables["lengths"].tolist()
        rounds = min(options.pool_rounds, max(1, options.iterations))
        for back in range(rounds):
            for row, (number, length) in enumerate(zip(self.number_B, lengths, strict=True)):
                places = state.variables["pool"][back, row, :length]
                origin = {"iteration": options.iterations - back, "row": row}
                content = self.texts.allowed_A[places.cpu()].tolist()
                yield Draft(content, number, origin, self._shares(state, row), self._attention(state, row, length))

    def described(self) -> dict[str, Any]:
        """The distance in the first round and the last, and how far embeddings are from tokens.

        Rounds in different states of the students do not compare: gradients of a trained one are harder to match.
        """
        values, steps = self.state.values, self.options.inner_steps
        if not values:
            return {"iterations": 0}
        x, z = self.state.variables["x"], self.table_AD[self.state.variables["z"]]
        mask = self._inside(self.state)[..., None]
        gap = ((x - z).square() * mask).sum() / (z.square() * mask).sum()
        return {
            "iterations": self.state.iteration,
            "distance_first_round": sum(values[:steps]) / steps,
            "distance_last_round": sum(values[-steps:]) / steps,
            "relative_gap_to_tokens": float(gap.sqrt()),
        }

    def matched(
        self,
        network: TextNetwork,
        parameters: Sequence[Tensor],
        real: Sequence[Tensor],
        rows: Sequence[int],
        variables: dict[str, Tensor],
    ) -> tuple[float, dict[str, Tensor]]:
        """Distance of the texts ``rows``, all of one class; its gradients by their X [b, L, D], and where these are
        learned by the logits of ``labels`` [b, K] and of ``attention`` [b, S, H, T]."""
        number, start = self.number_B[rows[0]], len(self.texts.prefix)
        lengths, z_BL = variables["lengths"], variables["z"]
        contents = [self.texts.allowed_A[z_BL[row, : int(lengths[row])].cpu()].tolist() for row in rows]
        batch = collate([self.texts.framed(content, number) for content in contents])
        leaves = {name: variables[name][list(rows)].detach().requires_grad_() for name in LEARNED if name in variables}
        x = leaves["x"]
        base_BTD = network.table(batch.input_ids_BT)
        room = base_BTD.shape[1] - start
        padded = functional.pad(x[:, :room], (0, 0, start, max(0, room - x.shape[1])))
        inside = functional.pad(self._inside(variables)[list(rows)][:, :room], (start, max(0, room - x.shape[1])))
        embeddings = torch.where(inside[..., None], padded, base_BTD)
        shares = leaves["labels"].softmax(-1) if "labels" in leaves else None
        attention = None
        if "attention" in leaves:
            tokens_BT = batch.attention_mask_BT.to(x.device)
            attention = as_label(leaves["attention"][..., : tokens_BT.shape[1]], tokens_BT)
        labels = Labels(shares, attention, self.options.attention_weight)
        loss = network.losses(parameters, batch, embeddings, labels).mean()
        gradient = network.gradient(loss, parameters, differentiable=True)
        value = self.distance(real)(gradient)
        found = torch.autograd.grad(value, list(leaves.values()))
        return float(value.detach()), dict(zip(leaves, found, strict=True))

    def _first(self) -> State:
        """Real texts of each class, or random tokens of their lengths."""
        longest = self.options.length_tokens
        contents = []
        for number in range(self.texts.classes):
            own, wanted = self.texts.of_class(number), self.number_B.count(number)
            drawing = generator(self.seed, "start", number)
            drawn = random_choice(len(own), wanted, drawing)
            drawn = torch.cat([drawn, torch.randint(len(own), (wanted - len(drawn),), generator=drawing)])
            contents += [self.texts.contents[int(index)][:longest] or (0,) for index in own[drawn]]
        lengths = torch.tensor([len(content) for content in contents])
        place = {int(one): index for index, one in enumerate(self.texts.allowed_A)}
        z_BL = torch.zeros(len(contents), int(lengths.max()), dtype=torch.int64)
        for row, content in enumerate(contents):
            z_BL[row, : len(content)] = torch.tensor([place.get(one, 0) for one in content])
        if self.options.start == "random":
            z_BL = torch.randint(len(place), z_BL.shape, generator=generator(self.seed, "start", "tokens"))
        x = self.table_AD[z_BL.to(self.device)].clone()
        learned = {"x": x}
        if self.options.labels == "soft":
            learned["labels"] = self._first_labels()
        if self.options.attention_labels != "none":
            learned["attention"] = self._first_attention(z_BL, lengths)
        pool = z_BL.expand(self.options.pool_rounds, -1, -1).clone()
        variables = {**learned, "z": z_BL, "u": torch.zeros_like(x), "lengths": lengths, "pool": pool}
        return State(self.key, 0, variables, new_moments(learned))

    def _first_labels(self) -> Tensor:
        """Logits [B, K]: FIRST_SHARE on the class, the rest dealt evenly."""
        classes = self.texts.classes
        rest = (1 - FIRST_SHARE) / max(1, classes - 1)
        own = functional.one_hot(torch.tensor(self.number_B), classes).to(self.device)
        return torch.where(own > 0, FIRST_SHARE, rest).log()

    def _first_attention(self, z_BL: Tensor, lengths: Tensor) -> Tensor:
        """Logits [B, S, H, T] of what the students attend to in the first texts, the mean over all their states."""
        contents = [self.texts.allowed_A[z_L[:n]].tolist() for z_L, n in zip(z_BL, lengths.tolist(), strict=True)]
        framed = [self.texts.framed(c, number) for c, number in zip(contents, self.number_B, strict=True)]
        batch, blocks = collate(framed), 1 if self.options.attention_labels == "last-block" else None
        found = [
            network.attentions(state, batch, blocks)
            for network, states in zip(self.networks.networks, self.networks.states, strict=True)
            for state in states
        ]
        return as_logits(torch.stack(found).mean(0))

    def _round(self, state: State) -> None:
        options, variables, iteration = self.options, state.variables, state.iteration
        network, parameters = self.networks.at(iteration)
        scale = float(self.table_AD.square().mean().sqrt())
        rho = options.rho / float(self.table_AD.square().sum(-1).mean())
        z = self.table_AD[variables["z"]]
        real = [
            self.networks.real_gradient(network, parameters, number, iteration) for number in range(self.texts.classes)
        ]
        for inner in range(options.inner_steps):
            step, total = iteration * options.inner_steps + inner, 0.0
            by = {name: torch.zeros_like(variables[name]) for name in LEARNED if name in variables}
            for number in range(self.texts.classes):
                rows = [row for row, one in enumerate(self.number_B) if one == number]
                value, found = self.matched(network, parameters, real[number], rows, variables)
                total += value
                for name, gradient in found.items():
                    by[name][rows] = gradient
            self.check_finite(total, iteration)
            by["x"] = pulled(by["x"], variables["x"], z, variables["u"], rho)
            rates = {
                "x": options.learning_rate * scale,
                "labels": options.label_learning_rate,
                "attention": options.attention_learning_rate,
            }
            for name, gradient in by.items():
                adam(variables, {name: gradient}, state.velocity, rate=rates[name], step=step)
            state.values.append(total)
        variables["z"] = project(variables["x"] + variables["u"], self.table_AD, self.likely)
        variables["u"] = dual(variables["x"], self.table_AD[variables["z"]], variables["u"])
        variables["pool"] = torch.cat([variables["z"][None], variables["pool"][:-1]])
        state.iteration += 1

    def _likelihood(self, directory: Path) -> Likely | None:
        """Which tokens may come next, by the option ``likelihood``."""
        kind = self.options.likelihood
        if kind == "auto":
            kind = "language-model" if self.texts.labels else "student"
        if kind == "none":
            return None
        k = min(self.options.top_k, len(self.texts.allowed_A))
        if kind == "student":
            return self._by_student(k)
        model = self.language_model()
        weights = model.trained(directory, self.key)
        classes_B = torch.tensor(self.number_B, device=self.device)
        return lambda prefix_Bt: model.likeliest(weights, prefix_Bt, classes_B, k)

    def _by_student(self, k: int) -> Likely:
        """The first student, at its start; it must predict the next token."""
        if self.texts.labels:
            raise DataError(
                f"{self.NAME}: likelihood is `student`, but with a task the student predicts classes, not tokens: use "
                "`language-model` (or auto)"
            )
        model = self.networks.networks[0].model
        allowed_A = self.texts.allowed_A.to(self.device)
        prefix = torch.tensor([*self.texts.prefix], dtype=torch.int64, device=self.device)

        @torch.no_grad()
        def likely(places_Bt: Tensor) -> Tensor:
            rows = len(places_Bt)
            if not len(prefix) and not places_Bt.shape[1]:  # nothing to condition on: every token may be the first
                return torch.arange(len(allowed_A), device=self.device).expand(rows, -1)
            ids_Bt = torch.cat([prefix.expand(rows, -1), allowed_A[places_Bt]], dim=1)
            logits_BV = model(input_ids=ids_Bt, use_cache=False).logits[:, -1]
            return logits_BV[:, allowed_A].topk(k, dim=-1).indices

        return likely

    def _inside(self, state: State | dict[str, Tensor]) -> Tensor:
        """[B, L] whether a position belongs to its text."""
        variables = state.variables if isinstance(state, State) else state
        length = variables["x"].shape[1]
        return torch.arange(length, device=self.device) < variables["lengths"][:, None]

    def _shares(self, state: State, row: int) -> tuple[float, ...] | None:
        """The learned label, small shares left out and the rest brought to sum 1; None where labels are hard."""
        if "labels" not in state.variables:
            return None
        shares = state.variables["labels"][row].softmax(-1)
        kept = torch.where(shares >= self.options.least_share, shares, 0.0)
        if not bool(kept.any()):
            kept = functional.one_hot(shares.argmax(), len(shares)).to(shares.dtype)
        return tuple((kept / kept.sum()).tolist())

    def _attention(self, state: State, row: int, length: int) -> Tensor | None:
        """[S, H, T] the learned attention label over the tokens of a text, special ones included; None: none."""
        if "attention" not in state.variables:
            return None
        tokens = len(self.texts.prefix) + length + len(self.texts.suffix)
        return state.variables["attention"][row, ..., :tokens].softmax(-1)

    def _save_embeddings(self, state: State, directory: Path) -> None:
        inside, z = self._inside(state).cpu(), state.variables["z"].cpu()
        tensors = {
            "x": state.variables["x"].cpu().contiguous(),
            "tokens": torch.where(inside, self.texts.allowed_A[z], -1).contiguous(),
            "class": torch.tensor(self.number_B),
        }
        if "labels" in state.variables:
            tensors["shares"] = state.variables["labels"].softmax(-1).cpu().contiguous()
        atomic_write_bytes(directory / EMBEDDINGS_FILE, save(tensors))
