"""A student as a function of its parameters and of embeddings in place of token ids.

Legend: B sequences, T positions, D channels of the embedding, K classes, V rows of the embedding table, P matched
parameters.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from distill_core.engine.classifier import logits_of_rows
from distill_core.engine.features.sequence_model import SequenceModel
from distill_core.errors import DataError
from distill_core.types import TokenBatch
from distill_synthesis.text_matching.attention_labels import attended, attention_divergence


@dataclass(frozen=True)
class Labels:
    """What is predicted of texts in place of their own labels, one prediction per text.

    Args:
        shares_BK: probabilities of classes; None: the batch's labels.
        attention_BSHT: what the place of the class shall attend to in the last S blocks, see ``attention_labels``;
            None: whatever.
        attention_weight: factor of the divergence of attentions beside the cross-entropy.
    """

    shares_BK: Tensor | None = None
    attention_BSHT: Tensor | None = None
    attention_weight: float = 1.0


class TextNetwork(nn.Module):
    """Losses of sequences, differentiable by parameters and embeddings, twice.

    A next-token loss goes through ``ops.linear_support_logits``, so no [tokens, V] logits are made. Attention is
    Transformers' eager one: the fused ones of torch have no second derivative.

    Args:
        model: a ``PreTrainedModel``.
        matched: which parameters count: ``all`` (but the token embedding), ``last-block``, ``head``.
        next_token: whether it predicts the next token.
    """

    def __init__(self, model: Any, matched: str, *, next_token: bool) -> None:
        super().__init__()
        model.set_attn_implementation("eager")
        self.model = model.eval()
        self.sequence = SequenceModel(model, next_token=next_token)
        self.names = [f"model.{name}" for name in matched_names(model, "all", next_token=next_token)]
        compared = {f"model.{name}" for name in matched_names(model, matched, next_token=next_token)}
        self.matched = [index for index, name in enumerate(self.names) if name in compared]
        for parameter in self.model.parameters():
            parameter.requires_grad_(False)

    @property
    def initial(self) -> list[Tensor]:
        """All parameters but the token embedding, as the model has them, copies."""
        held = dict(self.named_parameters())
        return [held[name].detach().clone() for name in self.names]

    def leaves(self, parameters: Sequence[Tensor]) -> list[Tensor]:
        """Copies of parameters, of which the matched ones require grad."""
        matched = set(self.matched)
        return [p.detach().clone().requires_grad_(index in matched) for index, p in enumerate(parameters)]

    def gradient(self, loss: Tensor, leaves: Sequence[Tensor], *, differentiable: bool = False) -> list[Tensor]:
        """P tensors: of a loss by the matched ones among the leaves it was made with."""
        wanted = [leaves[index] for index in self.matched]
        return list(torch.autograd.grad(loss, wanted, create_graph=differentiable, materialize_grads=True))

    @torch.no_grad()
    def table(self, ids_A: Tensor) -> Tensor:
        """[A, D], what the embedding layer gives for ids."""
        layer = self.model.get_input_embeddings()
        found: Tensor = layer(ids_A.to(layer.weight.device))
        return found

    def check_ids(self, largest: int) -> None:
        """Raises DataError where the embedding has no row for an id."""
        known = self.model.get_input_embeddings().weight.shape[0]
        if largest >= known:
            raise DataError(
                f"the texts hold the token id {largest}, but the student has {known} embeddings: they were made by "
                "another tokenizer; set student.tokenizer to the model's own"
            )

    def losses(
        self,
        parameters: Sequence[Tensor],
        batch: TokenBatch,
        embeddings_BTD: Tensor | None = None,
        labels: Labels | None = None,
    ) -> Tensor:
        """[B] mean cross-entropy of each sequence in nat; with attention labels their divergence is added.

        Args:
            parameters: in place of the model's own, in the order of ``names``.
            batch: sequences; their labels are what is predicted.
            embeddings_BTD: what the embedding layer gives; None: its own rows.
            labels: in place of the batch's own.
        """
        given = dict(zip(self.names, parameters, strict=True))
        with self._embedded(embeddings_BTD):
            found: Tensor = torch.func.functional_call(self, given, (batch, labels))
        return found

    def forward(self, batch: TokenBatch, labels: Labels | None = None) -> Tensor:
        """See :meth:`losses`."""
        if labels is None or (labels.shares_BK is None and labels.attention_BSHT is None):
            return self.sequence.losses(batch)
        batch = batch.to(self.sequence.device)
        rows, wanted = batch.rows(), labels.attention_BSHT
        output = self.model(**batch.model_inputs(), output_attentions=wanted is not None)
        logits_BK = logits_of_rows(output.logits, rows)
        if labels.shares_BK is None:
            loss_B = nn.functional.cross_entropy(logits_BK, rows.labels_N, reduction="none")
        else:
            loss_B = -(labels.shares_BK * logits_BK.log_softmax(-1)).sum(-1)
        if wanted is None:
            return loss_B
        found = attended(output.attentions, rows.position_N, wanted.shape[1])
        return loss_B + labels.attention_weight * attention_divergence(wanted, found)

    @torch.no_grad()
    def attentions(self, parameters: Sequence[Tensor], batch: TokenBatch, blocks: int | None) -> Tensor:
        """[B, S, H, T]: what the places of the classes attend to in the last blocks; None: in all."""
        batch = batch.to(parameters[0].device)
        given = {name.removeprefix("model."): x for name, x in zip(self.names, parameters, strict=True)}
        inputs = {**batch.model_inputs(), "output_attentions": True}
        found = torch.func.functional_call(self.model, given, (), inputs).attentions
        return attended(found, batch.rows().position_N, blocks or len(found))

    @torch.no_grad()
    def logits(self, parameters: Sequence[Tensor], batch: TokenBatch) -> Tensor:
        """[B, K] of a classifier."""
        batch = batch.to(parameters[0].device)
        given = {name.removeprefix("model."): x for name, x in zip(self.names, parameters, strict=True)}
        output = torch.func.functional_call(self.model, given, (), batch.model_inputs())
        return logits_of_rows(output.logits, batch.rows())

    @contextmanager
    def _embedded(self, embeddings_BTD: Tensor | None) -> Iterator[None]:
        """In the block, the embedding layer gives these: whatever the model makes of ids (positions, pooling), it
        does as ever."""
        if embeddings_BTD is None:
            yield
            return
        handle = self.model.get_input_embeddings().register_forward_hook(lambda *call: embeddings_BTD)
        try:
            yield
        finally:
            handle.remove()


def matched_names(model: Any, matched: str, *, next_token: bool) -> list[str]:
    """Names of the parameters whose gradients are compared, in the model's order."""
    head = _head(model, next_token=next_token)
    of_head = {id(parameter) for parameter in head.parameters()}
    embedding = {id(parameter) for parameter in model.get_input_embeddings().parameters()} - of_head
    named = [(name, p) for name, p in model.named_parameters() if id(p) not in embedding]
    if matched == "all":
        return [name for name, _ in named]
    if matched == "head":
        return [name for name, p in named if id(p) in of_head]
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList) and len(module)]
    if not lists:
        raise DataError(f"{type(model).__name__} has no list of blocks: set matched to `head` or `all`")
    block = {id(p) for p in lists[0][-1].parameters()}  # the outermost list comes first
    start = next(index for index, (_, p) in enumerate(named) if id(p) in block)
    return [name for index, (name, p) in enumerate(named) if index >= start or id(p) in of_head]


def _head(model: Any, *, next_token: bool) -> nn.Module:
    if next_token:
        head = model.get_output_embeddings()
    else:
        classes = int(model.config.num_labels)
        linear = [m for m in model.modules() if isinstance(m, nn.Linear) and m.out_features == classes]
        head = linear[-1] if linear else None
    if head is None:
        raise DataError(f"{type(model).__name__} has no linear head whose gradient could be matched")
    found: nn.Module = head
    return found
