"""A small causal language model of the real texts, conditional on their class: generator, and judge of likelihood.

Its vocabulary is compact: 0 .. A - 1 are the token ids that occur in the real texts, A + c starts a text of class c,
A + K ends one. So it works with any tokenizer, and writes nothing that the real texts do not hold.

Legend: B texts, T positions, A token ids, K classes, V = A + K + 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from distill_synthesis.matching.coresets import random_choice
from distill_synthesis.matching.randomness import generator
from distill_synthesis.matching.state import State, load_state
from distill_synthesis.text_matching.descent import adam, new_moments
from distill_synthesis.text_matching.networks import seed_of
from distill_synthesis.text_matching.options import LanguageModelOptions
from distill_synthesis.text_matching.texts import LabelledTexts

FILE = "state/language-model.pt"
IGNORE = -100
CHECKPOINT_STEPS = 100


class LanguageModel:
    """The model, at weights that are given with every call.

    Args:
        options: size and training.
        texts: real ones: their ids and classes are its vocabulary.
        length: most tokens of a text.
        seed: of its weights, and of everything drawn.
        device: where it runs.
    """

    def __init__(
        self, options: LanguageModelOptions, texts: LabelledTexts, length: int, seed: int, device: torch.device
    ) -> None:
        from transformers import LlamaConfig, LlamaForCausalLM

        self.options, self.texts, self.length, self.seed, self.device = options, texts, length, seed, device
        self.tokens, self.classes = len(texts.allowed_A), texts.classes
        self.end = self.tokens + self.classes
        self.place = {int(one): index for index, one in enumerate(texts.allowed_A)}
        config = LlamaConfig(
            vocab_size=self.end + 1,
            hidden_size=options.hidden_size,
            intermediate_size=2 * options.hidden_size,
            num_hidden_layers=options.layers,
            num_attention_heads=options.heads,
            num_key_value_heads=options.heads,
            max_position_embeddings=length + 2,
            tie_word_embeddings=True,
            pad_token_id=None,
            bos_token_id=None,
            eos_token_id=self.end,
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_of(seed, "language model"))
            self.model = LlamaForCausalLM(config).float().eval().to(device).requires_grad_(False)

    def initial(self) -> dict[str, Tensor]:
        """Its weights before training, copies."""
        return {name: p.detach().clone() for name, p in self.model.named_parameters()}

    def rows(self, contents: Sequence[Sequence[int]], classes: Sequence[int]) -> Tensor:
        """[B, T] compact ids: class, content cut to ``length``, end; -100 pads."""
        rows = [
            [self.tokens + number, *(self.place[one] for one in content[: self.length]), self.end]
            for content, number in zip(contents, classes, strict=True)
        ]
        longest = max(map(len, rows))
        return torch.tensor([row + [IGNORE] * (longest - len(row)) for row in rows], device=self.device)

    def logits(self, weights: Mapping[str, Tensor], rows_BT: Tensor) -> Tensor:
        """[B, T, V]; class starts, which are never written, at -inf."""
        ids_BT = rows_BT.clamp_min(0)
        given = {"input_ids": ids_BT, "attention_mask": (rows_BT != IGNORE).long(), "use_cache": False}
        logits_BTV: Tensor = torch.func.functional_call(self.model, dict(weights), (), given).logits
        starts_V = torch.zeros(self.end + 1, dtype=torch.bool, device=logits_BTV.device)
        starts_V[self.tokens : self.end] = True
        return logits_BTV.masked_fill(starts_V, -torch.inf)

    def log_likelihood(self, weights: Mapping[str, Tensor], rows_BT: Tensor) -> Tensor:
        """[B] mean log-probability of the tokens and the end, in nat."""
        target_BT = rows_BT[:, 1:]
        logits_BTV = self.logits(weights, rows_BT)[:, :-1]
        losses_BT = functional.cross_entropy(
            logits_BTV.transpose(1, 2), target_BT, ignore_index=IGNORE, reduction="none"
        )
        return -losses_BT.sum(1) / (target_BT != IGNORE).sum(1)

    def trained(self, directory: Path, key: str) -> dict[str, Tensor]:
        """Its weights after training on the real texts; kept in ``directory``, and gone on with from there."""
        state = load_state(directory, key, FILE)
        if state is None:
            weights = self.initial()
            state = State(key, 0, weights, new_moments(weights))
        weights = {name: x.to(self.device) for name, x in state.variables.items()}
        moments = {name: x.to(self.device) for name, x in state.velocity.items()}
        state.variables, state.velocity = weights, moments
        while state.iteration < self.options.steps:
            self._step(weights, moments, state)
            if state.iteration % CHECKPOINT_STEPS == 0 or state.iteration == self.options.steps:
                state.save(directory, FILE)
        return weights

    def real_loss(self, weights: Mapping[str, Tensor], *key: object) -> Tensor:
        """Mean negative log-likelihood of real texts, drawn by a key."""
        chosen = random_choice(len(self.texts.contents), self.options.batch, generator(self.seed, "language", *key))
        rows = self.rows(
            [self.texts.contents[int(i)] for i in chosen], [int(self.texts.class_N[int(i)]) for i in chosen]
        )
        return -self.log_likelihood(weights, rows).mean()

    def _step(self, weights: dict[str, Tensor], moments: dict[str, Tensor], state: State) -> None:
        leaves = {name: x.detach().clone().requires_grad_() for name, x in weights.items()}
        loss = self.real_loss(leaves, state.iteration)
        gradients = dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))
        rate = self.options.learning_rate * (1 - state.iteration / self.options.steps)
        adam(weights, gradients, moments, rate=rate, step=state.iteration)
        state.iteration += 1
        state.values.append(float(loss.detach()))

    @torch.no_grad()
    def sample(
        self, weights: Mapping[str, Tensor], classes: Sequence[int], top_p: float, drawing: torch.Generator
    ) -> list[tuple[int, ...]]:
        """Contents, in the tokenizer's ids, one for each class given; those without an end are cut at ``length``."""
        rows_BT = torch.tensor([[self.tokens + number] for number in classes], device=self.device)
        ended_B = torch.zeros(len(classes), dtype=torch.bool, device=self.device)
        for _ in range(self.length):
            shares_BV = nucleus(self.logits(weights, rows_BT)[:, -1].softmax(-1), top_p)
            next_B = torch.multinomial(shares_BV.cpu(), 1, generator=drawing)[:, 0].to(self.device)
            next_B = torch.where(ended_B, self.end, next_B)
            rows_BT = torch.cat([rows_BT, next_B[:, None]], dim=1)
            ended_B |= next_B == self.end
            if bool(ended_B.all()):
                break
        allowed = self.texts.allowed_A.tolist()
        return [tuple(allowed[one] for one in row[1:] if one < self.tokens) for row in rows_BT.tolist()]

    @torch.no_grad()
    def likeliest(self, weights: Mapping[str, Tensor], prefix_Bt: Tensor, classes_B: Tensor, k: int) -> Tensor:
        """[B, min(k, A)] places of the likeliest next tokens after a prefix of places (no end of text)."""
        rows_BT = torch.cat([self.tokens + classes_B[:, None], prefix_Bt], dim=1)
        return self.logits(weights, rows_BT)[:, -1, : self.tokens].topk(min(k, self.tokens), dim=-1).indices


def nucleus(shares_BV: Tensor, top_p: float) -> Tensor:
    """The least set of likeliest outcomes that holds ``top_p`` of the mass, to sum 1 (arXiv 1904.09751).

    >>> nucleus(torch.tensor([[0.5, 0.3, 0.2]]), 0.7).tolist()
    [[0.625, 0.375, 0.0]]
    """
    ordered, places = shares_BV.sort(dim=-1, descending=True)
    before = ordered.cumsum(-1) - ordered
    kept = torch.zeros_like(shares_BV).scatter(-1, places, ordered.masked_fill(before >= top_p, 0.0))
    return kept / kept.sum(-1, keepdim=True)
