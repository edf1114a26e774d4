"""Which training examples hurt: gradients of single examples against the gradient of the held-out loss.

Legend: B sequences of a batch, T positions, I inputs of a linear layer, O its outputs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from distill_core.engine.data import TokenSequence, collate
from distill_core.engine.features.per_sample import linear_layers, visit_gradients
from distill_core.engine.features.sequence_model import SequenceModel
from distill_core.errors import DataError, SignalError
from distill_core.interfaces import EvaluationContext, Measurement
from distill_core.types import IGNORE, TokenBatch
from distill_evaluation.held_out import some_batches
from distill_evaluation.influence_options import TrainingInfluenceOptions
from distill_evaluation.questions import Sums
from distill_evaluation.texts import training_sequences

EXCERPT_TOKENS = 60
"""Tokens of an example that are shown."""


@dataclass(frozen=True)
class Influence:
    """What one training sequence does to the held-out loss.

    Args:
        effect: change of the held-out loss by a gradient step on this sequence alone, nat per unit of learning rate, to
            first order: ``-(gradient of its loss) . (gradient of the held-out loss)``. Above 0 it hurts.
        cosine: of the two gradients.
        loss: of the sequence, nat per prediction.
    """

    effect: float
    cosine: float
    loss: float


class TrainingInfluence:
    """Evaluator ``training-influence``: which training examples work against the held-out texts?

    TracIn (Pruthi et al., arXiv 2002.08484, equation 1) in its form with one checkpoint, the last: a step on a training
    sequence z changes the held-out loss by ``-eta grad L(z) . grad L(held-out)``, to first order. L is the mean
    cross-entropy of the labels. Gradients are those of the linear layers without a language model's head, exact: of
    each layer only the held-out gradient is held, and each sequence's is used and let go.

    - ``harmful_share``: share of the training sequences whose step would raise the held-out loss.
    - ``gradient_alignment``: mean cosine of their gradients with the held-out one.

    ``detail["hurt_most"]`` and ``detail["help_most"]`` of ``harmful_share`` list examples with their beginning. A
    mislabelled or broken example stands out by a large effect; an example already learned has a small one. What
    earlier steps did is not seen, nor what examples do together, nor Adam's scaling.
    """

    aspect = "influence"

    def __init__(self, options: TrainingInfluenceOptions | None = None) -> None:
        self.options = options or TrainingInfluenceOptions()

    def evaluate(self, context: EvaluationContext) -> list[Measurement]:
        if context.is_teacher or context.name not in self.options.models:
            return []
        training = training_sequences(context, "training-influence")
        order = np.random.default_rng(context.seed).permutation(len(training))[: self.options.sequences]
        chosen = [training[int(index)] for index in sorted(order)]
        chosen = [one for one in chosen if bool((one.labels[1 if one.next_token else 0 :] != IGNORE).any())]
        if not chosen:
            raise SignalError("training-influence found no training sequence with anything to predict")
        model = SequenceModel(context.model, next_token=not context.labels)
        held_out = list(some_batches(context, self.options.held_out))
        try:
            found = influences(model, held_out, chosen, self.options.layers, self.options.batch_sequences)
        except DataError as error:
            raise SignalError(f"training-influence: {error}") from error
        return self._measurements(found, chosen, context)

    def _measurements(
        self, found: Sequence[Influence], chosen: Sequence[TokenSequence], context: EvaluationContext
    ) -> list[Measurement]:
        hurts, cosines = Sums(), Sums()
        for one, sequence in zip(found, chosen, strict=True):
            hurts.add(sequence.document, float(one.effect > 0))
            cosines.add(sequence.document, one.cosine)
        ranked = sorted(range(len(found)), key=lambda index: -found[index].effect)
        rows = [_row(found[index], chosen[index], context) for index in ranked]
        detail = {
            "hurt_most": [row for row in rows if row["effect"] > 0][: self.options.shown],
            "help_most": [row for row in reversed(rows) if row["effect"] < 0][: self.options.shown],
        }
        n = len(found)
        return [
            Measurement(
                "harmful_share", hurts.value, "fraction", n, None, hurts, detail, label="Training examples that hurt"
            ),
            Measurement(
                "gradient_alignment", cosines.value, "", n, None, cosines, {},
                label="Cosine of training and held-out gradients",
            ),
        ]  # fmt: skip


def influences(
    model: SequenceModel,
    held_out: Iterable[TokenBatch],
    training: Sequence[TokenSequence],
    pattern: str | None = None,
    batch_sequences: int = 8,
) -> list[Influence]:
    """Of every training sequence, in order.

    Args:
        model: what the gradients are of.
        held_out: batches whose mean loss by sequence is the held-out loss.
        training: sequences, each with something to predict.
        pattern: as for ``linear_layers``.
        batch_sequences: training sequences per pass.

    Raises:
        DataError: no linear layer matches.
    """
    layers = linear_layers(model.model, pattern)
    sums: dict[str, Tensor] = {}
    count = 0

    def add(name: str, acts_BTI: Tensor, grads_BTO: Tensor) -> None:
        part_OI = torch.einsum("bto,bti->oi", grads_BTO.float(), acts_BTI.float())
        sums[name] = sums[name] + part_OI if name in sums else part_OI

    for batch in held_out:
        visit_gradients(model, batch, layers, add)
        count += len(batch.keys)
    aim = {name: total_OI / max(count, 1) for name, total_OI in sums.items()}
    length = float(sum(total_OI.double().square().sum() for total_OI in aim.values())) ** 0.5
    found = []
    for start in range(0, len(training), batch_sequences):
        batch = collate(training[start : start + batch_sequences])
        found += _of_batch(model, batch, layers, aim, length)
    return found


def _of_batch(
    model: SequenceModel, batch: TokenBatch, layers: Mapping[str, Any], aim: Mapping[str, Tensor], length: float
) -> list[Influence]:
    dots_B = torch.zeros(len(batch.keys), dtype=torch.float64)
    squares_B = torch.zeros_like(dots_B)

    def use(name: str, acts_BTI: Tensor, grads_BTO: Tensor) -> None:
        acts_BTI, grads_BTO = acts_BTI.float(), grads_BTO.float()
        dots_B.add_(((grads_BTO @ aim[name]) * acts_BTI).double().sum(dim=(1, 2)).cpu())
        pairs_BTT = (grads_BTO @ grads_BTO.mT) * (acts_BTI @ acts_BTI.mT)  # |sum_t g_t a_t^T|^2, never formed
        squares_B.add_(pairs_BTT.double().sum(dim=(1, 2)).cpu())

    visit_gradients(model, batch, layers, use)
    with torch.no_grad():
        losses = model.losses(batch).double().tolist()
    norms = [max(square, 0.0) ** 0.5 * length for square in squares_B.tolist()]
    return [
        Influence(-dot, dot / norm if norm > 0 else 0.0, loss)
        for dot, norm, loss in zip(dots_B.tolist(), norms, losses, strict=True)
    ]


def _row(one: Influence, sequence: TokenSequence, context: EvaluationContext) -> dict[str, Any]:
    row: dict[str, Any] = {
        "document": sequence.document, "effect": one.effect, "cosine": one.cosine, "loss": one.loss,
    }  # fmt: skip
    if context.labels:
        given = [int(label) for label in sequence.labels.tolist() if label != IGNORE]
        row["label"] = context.labels[given[0]] if len(given) == 1 else f"{len(given)} labels"
    if context.tokenizer is not None and not sequence.inputs:
        ids = sequence.input_ids[:EXCERPT_TOKENS].tolist()
        text = context.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        row["text"] = str(text) + (" ..." if len(sequence) > EXCERPT_TOKENS else "")
    return row
