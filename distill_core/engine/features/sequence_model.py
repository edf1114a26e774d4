"""A model as a function of sequences: hidden states, losses and errors of each, no [tokens, V] logits on the way.

Legend: B sequences, T positions, D hidden, N rows (predictions), V vocabulary or classes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from distill_core import ops
from distill_core.engine.classifier import as_sequence, logits_of_rows
from distill_core.engine.head import decoder_of, head_spec
from distill_core.types import RowIndex, TokenBatch


class SequenceModel:
    """Numbers per sequence of a causal language model, or of a classifier where a run has a task.

    Args:
        model: a ``PreTrainedModel``; it is put into eval mode.
        next_token: True for a causal language model.
    """

    def __init__(self, model: Any, *, next_token: bool) -> None:
        self.model, self.next_token = model.eval(), next_token
        self.spec = head_spec(model) if next_token else None

    @property
    def device(self) -> torch.device:
        device: torch.device = next(iter(self.model.parameters())).device
        return device

    @torch.no_grad()
    def hidden(self, batch: TokenBatch) -> Tensor:
        """[B, D] mean of the last hidden state over the tokens of each sequence, prompts included, padding not."""
        batch = batch.to(self.device)
        if self.next_token:
            decoder = decoder_of(self.model)
            hidden_BTD = decoder(**batch.model_inputs(), use_cache=False, return_dict=True).last_hidden_state
        else:
            output = self.model(**batch.model_inputs(), output_hidden_states=True, return_dict=True)
            hidden_BTD = as_sequence(output.hidden_states[-1])
        mask_BT1 = torch.ones_like(hidden_BTD[..., :1])
        if not batch.inputs:
            mask_BT1 = batch.attention_mask_BT[..., None].to(hidden_BTD.dtype)
        mean_BD: Tensor = (hidden_BTD * mask_BT1).sum(dim=1) / mask_BT1.sum(dim=1)
        return mean_BD

    def losses(self, batch: TokenBatch, *, own_forward: bool = False) -> Tensor:
        """[B] weighted mean cross-entropy in nat of each sequence's predictions, 0 for a sequence without any.

        Args:
            batch: sequences.
            own_forward: run the model's own forward, so that hooks on its head see it; logits [B, T, V] are made then.
        """
        batch = batch.to(self.device)
        index = batch.rows()
        if own_forward or self.spec is None:
            logits_NV = logits_of_rows(self._logits(batch), index)
            loss_N = functional.cross_entropy(logits_NV, index.labels_N, reduction="none")
        else:
            loss_N = self._support(batch, index, (1.0,)).cross_entropy()
        return mean_by_sequence(loss_N, index, batch)

    def margins(self, batch: TokenBatch) -> Tensor:
        """[B] weighted mean of the labels' log-odds ``log p - log(1 - p)``; 0 for a sequence without predictions.

        ``log(1 - p)`` is the logsumexp over all but the label, never ``1 - p``, which loses everything near p = 1.
        """
        batch = batch.to(self.device)
        index = batch.rows()
        return mean_by_sequence(self._margins(batch, index), index, batch)

    @torch.no_grad()
    def doubts(self, batch: TokenBatch) -> Tensor:
        """[B] mean of ``1 - p`` of the labels over each sequence's predictions; 0 for a sequence without any."""
        batch = batch.to(self.device)
        index = batch.rows()
        return mean_by_sequence(torch.sigmoid(-self._margins(batch, index)), index, batch)

    @torch.no_grad()
    def entropies(self, batch: TokenBatch) -> Tensor:
        """[B] mean entropy in nat of each sequence's predictions; 0 for a sequence without any."""
        batch = batch.to(self.device)
        index = batch.rows()
        entropy_N = self._support(batch, index, (1.0,), extras=("entropy",)).entropy_NT[:, 0]
        return mean_by_sequence(entropy_N, index, batch)

    @torch.no_grad()
    def leads(self, batch: TokenBatch) -> Tensor:
        """[B] mean lead of the likeliest outcome's probability over the next one's; 0 for a sequence without any."""
        batch = batch.to(self.device)
        index = batch.rows()
        first_N, second_N = self._two_likeliest(batch, index).unbind(1)
        return mean_by_sequence(first_N - second_N, index, batch)

    @torch.no_grad()
    def error_norms(self, batch: TokenBatch) -> Tensor:
        """[B] mean of ``|p - onehot(label)|_2`` over each sequence's predictions; 0 for a sequence without any.

        ``|p - y|^2 = sum p^2 - 2 p_label + 1``, and ``sum p^2 = exp(lse(2 z) - 2 lse(z))``.
        """
        batch = batch.to(self.device)
        index = batch.rows()
        if self.spec is None:
            logits_NV = logits_of_rows(self._logits(batch), index)
            lse_N, lse2_N = logits_NV.logsumexp(-1), (2 * logits_NV).logsumexp(-1)
            label_N = logits_NV.gather(-1, index.labels_N[:, None])[:, 0]
        else:
            support = self._support(batch, index, (1.0, 0.5))
            lse_N, lse2_N, label_N = support.logsumexp(1.0), support.logsumexp(0.5), support.label_N
        square_N = (lse2_N - 2 * lse_N).exp() - 2 * (label_N - lse_N).exp() + 1
        return mean_by_sequence(square_N.clamp_min(0).sqrt(), index, batch)

    def _logits(self, batch: TokenBatch) -> Tensor:
        options: dict[str, Any] = {"use_cache": False} if self.next_token else {}
        logits: Tensor = self.model(**batch.model_inputs(), **options).logits
        return logits

    def _margins(self, batch: TokenBatch, index: RowIndex) -> Tensor:
        """[N]: with the label as the only entry of the support, the tail is the logsumexp of all others."""
        support = self._support(batch, index, (1.0,), ids_NK=index.labels_N[:, None])
        margin_N: Tensor = support.support_NK[:, 0] - support.tail_NT[:, 0]
        return margin_N

    def _two_likeliest(self, batch: TokenBatch, index: RowIndex) -> Tensor:
        """[N, 2] probabilities."""
        if self.spec is None:
            found = ops.topk_logits(logits_of_rows(self._logits(batch), index), 2)
        else:
            decoded = decoder_of(self.model)(**batch.model_inputs(), use_cache=False, return_dict=True)
            head = self.model.get_output_embeddings()
            found = ops.linear_topk_logits(
                index.select(decoded.last_hidden_state),
                head.weight,
                2,
                bias=head.bias,
                softcap=self.spec.softcap,
                logit_scale=self.spec.logit_scale,
            )
        return found.log_probs()[0].exp()

    def _support(
        self,
        batch: TokenBatch,
        index: RowIndex,
        temperatures: tuple[float, ...],
        *,
        ids_NK: Tensor | None = None,
        extras: tuple[str, ...] = (),
    ) -> Any:
        """Support logits of the predictions; without ``ids_NK`` on an empty support."""
        if ids_NK is None:
            ids_NK = index.labels_N.new_empty(len(index), 0)
        given: dict[str, Any] = {"labels_N": index.labels_N, "temperatures": temperatures, "extras": extras}
        if self.spec is None:
            return ops.support_logits(logits_of_rows(self._logits(batch), index), ids_NK, **given)
        decoded = decoder_of(self.model)(**batch.model_inputs(), use_cache=False, return_dict=True)
        head = self.model.get_output_embeddings()
        return ops.linear_support_logits(
            index.select(decoded.last_hidden_state),
            head.weight,
            ids_NK,
            bias=head.bias,
            softcap=self.spec.softcap,
            logit_scale=self.spec.logit_scale,
            **given,
        )


def mean_by_sequence(values_N: Tensor, index: RowIndex, batch: TokenBatch) -> Tensor:
    """[B] weighted means of numbers per row; 0 for a sequence without rows."""
    weights_N = index.weights_N.to(values_N.dtype)
    zeros_B = values_N.new_zeros(batch.input_ids_BT.shape[0])
    sums_B = zeros_B.index_add(0, index.sequence_N, values_N * weights_N)
    totals_B = zeros_B.index_add(0, index.sequence_N, weights_N)
    return sums_B / torch.where(totals_B > 0, totals_B, torch.ones_like(totals_B))
