"""What one position of a text attends to, close to a label that the record carries.

Legend: B sequences, T positions, S blocks with a label, H heads, n tokens of one sequence.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from distill_core.errors import SignalError
from distill_core.interfaces import BuildContext
from distill_core.types import LossTerm, StudentView, TeacherSignals, TokenBatch
from distill_objectives.attention_label_options import AttentionLabelsOptions
from distill_objectives.features.layers import text_config
from distill_objectives.features.positions import wide

SUM_TOLERANCE = 1e-3
"""Written probabilities are rounded; their sum is off by as much at most."""


@dataclass(frozen=True)
class Label:
    """A record's label.

    Args:
        blocks: S numbers from 1.
        position: 0 (first token) or -1 (last token).
        probabilities_SHn: over the tokens of the sequence.
    """

    blocks: tuple[int, ...]
    position: int
    probabilities_SHn: Tensor


class AttentionLabels:
    """Attention labels of distilled texts (Maekawa et al., ACL 2023): per labelled sequence, the mean over blocks and
    heads of KL(label || the student's attention probabilities) in nat, at one position.

    A label is a field of the record, ``{"blocks": [2], "position": 0, "probabilities": [[[...]]]}``: blocks from 1,
    position 0 or -1, probabilities [blocks, heads, tokens]. ``gradient-matching-text`` writes it, ``data.train.keep``
    keeps it with the sequence. Sequences without a label count nothing. A record's weight multiplies its value. No
    teacher is asked.

    Args:
        options: ``field``, ``heads``.

    Raises:
        SignalError: no training sequence has the field, or a label does not fit the sequence or the student.

    >>> AttentionLabels(AttentionLabelsOptions()).student_signals
    ('attentions',)
    """

    name = "attention-labels"
    student_signals = ("attentions",)

    def __init__(self, options: AttentionLabelsOptions) -> None:
        self.options = options
        self.properties = {"nonnegative": True}
        self.depth, self.n_heads = 0, 0

    def build(self, ctx: BuildContext) -> None:
        """Reads the student's depth, and looks for labels in the data."""
        config, field = text_config(ctx.student.config), self.options.field
        self.depth, self.n_heads = int(config.num_hidden_layers), int(config.num_attention_heads)
        if ctx.data is not None and not any(field in one.fields for one in ctx.data):
            raise SignalError(
                f"{self.name}: no training sequence has the field {field!r}; name it in data.train.keep ([{field}]), "
                "and train on records that have it (gradient-matching-text writes it with attention_labels)"
            )

    def count(self, batch: TokenBatch) -> float:
        """Sequences with a label."""
        return float(sum(value is not None for value in batch.fields.get(self.options.field, ())))

    def __call__(self, student: StudentView, teacher: TeacherSignals, batch: TokenBatch) -> LossTerm:
        """The sum over the labelled sequences, each with its token's weight."""
        if not self.depth:
            raise RuntimeError(f"{self.name}: call build(ctx) before the first batch")
        if student.attentions is None or len(student.attentions) != self.depth:
            found = "none" if student.attentions is None else len(student.attentions)
            raise SignalError(f"{self.name}: attentions of {found} blocks came, the student has {self.depth}")
        # a graph even where no sequence has a label
        terms = [wide(student.attentions[-1][:, :, 0, 0]).sum() * 0]
        with torch.autocast(batch.input_ids_BT.device.type, enabled=False):
            for index, value in enumerate(batch.fields.get(self.options.field, ())):
                if value is not None:
                    terms.append(self._one(student.attentions, batch, index, value))
            return LossTerm(total=torch.stack(terms).sum())

    def example_fields(self, batch: TokenBatch) -> dict[str, tuple[Any, ...]]:
        """Labels of the last block at the last token, as records hold them."""
        lengths = batch.attention_mask_BT.sum(1).tolist()
        rows = [torch.arange(1, n + 1, dtype=torch.float64).softmax(0).tolist() for n in lengths]
        field = [{"blocks": [self.depth], "position": -1, "probabilities": [[row] * self.n_heads]} for row in rows]
        return {self.options.field: tuple(field)}

    def _one(self, attentions: tuple[Tensor, ...], batch: TokenBatch, index: int, value: Any) -> Tensor:
        tokens = int(batch.attention_mask_BT[index].sum())
        where = f"{self.name}: document {batch.documents[index] if batch.documents else index}"
        label = read_label(value, tokens=tokens, depth=self.depth, where=where)
        place = label.position % tokens
        found_SHn = torch.stack([wide(attentions[block - 1][index, :, place, :tokens]) for block in label.blocks])
        wanted_SHn = label.probabilities_SHn.to(found_SHn)
        heads = (found_SHn.shape[1], wanted_SHn.shape[1])
        if self.options.heads == "match" and heads[0] != heads[1]:
            raise SignalError(
                f"{where}: the label has {heads[1]} heads, the student {heads[0]}, and heads is match; use heads: mean "
                "(or auto)"
            )
        if self.options.heads == "mean" or heads[0] != heads[1]:
            found_SHn, wanted_SHn = found_SHn.mean(1, keepdim=True), wanted_SHn.mean(1, keepdim=True)
        weight = 1.0 if batch.weights_BT is None else batch.weights_BT[index, place].to(found_SHn)
        return weight * label_divergence(wanted_SHn, found_SHn)


def label_divergence(label_SHn: Tensor, found_SHn: Tensor) -> Tensor:
    """KL(label || found) in nat, the mean over blocks and heads; a 0 of the label counts 0.

    A student's 0 under a label's weight is cut off at the smallest number.
    """
    tiny = torch.finfo(found_SHn.dtype).tiny
    gap_SHn = label_SHn.clamp_min(tiny).log() - found_SHn.clamp_min(tiny).log()
    return (label_SHn * gap_SHn).sum(-1).mean()


def read_label(value: Any, *, tokens: int, depth: int, where: str) -> Label:
    """A record's field, checked; probabilities float64, scaled to sum 1.

    Raises:
        SignalError: anything in it does not fit.
    """
    wanted = "{blocks: [from 1], position: 0 or -1, probabilities: [blocks, heads, tokens]}"
    if not isinstance(value, Mapping) or set(value) != {"blocks", "position", "probabilities"}:
        raise SignalError(f"{where}: an attention label is {wanted}, received {str(value)[:80]}")
    blocks, position = value["blocks"], value["position"]
    if not isinstance(blocks, list) or not blocks or not all(type(b) is int and 1 <= b <= depth for b in blocks):
        raise SignalError(
            f"{where}: the attention label is for the blocks {blocks!r}, the student has 1 .. {depth}; distil for this "
            "student, or train one of that depth"
        )
    if position not in (0, -1):
        raise SignalError(f"{where}: position of the attention label is {position!r}, expected 0 or -1")
    try:
        given = torch.tensor(value["probabilities"], dtype=torch.float64)
    except (TypeError, ValueError) as error:
        raise SignalError(f"{where}: probabilities of the attention label are no array ({error}); {wanted}") from error
    if given.dim() != 3 or given.shape[0] != len(blocks) or not given.shape[1] or given.shape[2] != tokens:
        raise SignalError(
            f"{where}: probabilities of the attention label have the shape {list(given.shape)}, expected "
            f"[{len(blocks)}, heads, {tokens}]: one number per token of the sequence as the student reads it (was it "
            "made with another tokenizer, or the text cut?)"
        )
    sums = given.sum(-1)
    if (
        not bool(torch.isfinite(given).all())
        or bool((given < 0).any())
        or float((sums - 1).abs().max()) > SUM_TOLERANCE
    ):
        raise SignalError(
            f"{where}: probabilities of the attention label are from {float(given.min())} to {float(given.max())} with "
            f"sums from {float(sums.min())} to {float(sums.max())}; expected numbers from 0 that sum to 1"
        )
    return Label(tuple(blocks), int(position), given / sums[..., None])
