"""What a position attends to and is related to: masks, heads and divergences that attention objectives share.

Legend: B sequences, T positions (first: from, second: to), H heads, R relation heads, E width of a projection (heads x
head size), L blocks, P pairs of blocks.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from distill_core.errors import SignalError
from distill_core.interfaces import BuildContext
from distill_core.types import LossTerm, StudentView, TeacherSignals, TokenBatch
from distill_objectives.features.layers import layer_pairs, refuse_other_tokens, teacher_config, text_config
from distill_objectives.features.positions import Positions, wide


class AttentionObjective:
    """Compares what positions attend to, at pairs of blocks; a subclass says how (:meth:`compare`).

    The value is the mean over the pairs of blocks of a number per position, summed over positions with their weights:
    it adds up over sequences. Positions look at themselves and the tokens before (``mask: causal``) or at all tokens
    (``full``), never at padding. No parameters. Computed in fp32, outside autocast.

    Args:
        options: has ``layers``, ``positions``, ``mask``.
        signals: what is compared, of both sides.
    """

    name: ClassVar[str]

    def __init__(self, options: Any) -> None:
        self.options = options
        self.properties = {"zero_at_equality": True, "nonnegative": True}
        self.pairs: list[tuple[int, int]] = []
        self.depths = (0, 0)
        self.teacher_heads = {"attentions": 1, "queries": 1, "keys": 1, "values": 1}

    @property
    def signals(self) -> tuple[str, ...]:
        """Signals that are compared, of both sides."""
        raise NotImplementedError

    def build(self, ctx: BuildContext) -> None:
        """Choose the blocks."""
        config = teacher_config(self.name, ctx, " and ".join(self.signals))
        student, teacher = text_config(ctx.student.config), text_config(config)
        self.depths = (int(student.num_hidden_layers), int(teacher.num_hidden_layers))
        self.pairs = layer_pairs(self.options.layers, *self.depths, name=self.name, first=1)
        heads = int(teacher.num_attention_heads)
        shared = int(getattr(teacher, "num_key_value_heads", None) or heads)
        self.teacher_heads = {"attentions": heads, "queries": heads, "keys": shared, "values": shared}

    def count(self, batch: TokenBatch) -> float:
        """Positions that are compared."""
        return float(len(Positions.of(batch, self.options.positions)))

    def compare(self, pair: Pair) -> Tensor:
        """[B, T] values of one pair of blocks."""
        raise NotImplementedError

    def __call__(self, student: StudentView, teacher: TeacherSignals, batch: TokenBatch) -> LossTerm:
        """The sum over the batch's positions, and each pair's part of it as a metric."""
        if not self.pairs:
            raise RuntimeError(f"{self.name}: call build(ctx) before the first batch")
        own = {signal: self._layers("student", student, signal, self.depths[0]) for signal in self.signals}
        theirs = {signal: self._layers("teacher", teacher, signal, self.depths[1]) for signal in self.signals}
        device = batch.attention_mask_BT.device
        with torch.autocast(device.type, enabled=False):
            weights_BT = Positions.of(batch, self.options.positions).grid(batch.attention_mask_BT.shape)
            visible_BTT = visible(batch.attention_mask_BT, causal=self.options.mask == "causal")
            terms, metrics = [], {}
            for i, j in self.pairs:
                pair = Pair(
                    self.name,
                    {signal: wide(layers[i - 1]) for signal, layers in own.items()},
                    {signal: wide(layers[j - 1].detach()) for signal, layers in theirs.items()},
                    batch.attention_mask_BT.bool(),
                    visible_BTT,
                )
                terms.append((self.compare(pair) * weights_BT).sum())
                metrics[f"layer_{i}_to_{j}"] = float(terms[-1].detach())
            return LossTerm(total=torch.stack(terms).sum() / len(terms), metrics=metrics)

    def _layers(self, side: str, view: StudentView | TeacherSignals, signal: str, depth: int) -> tuple[Tensor, ...]:
        layers = view.attentions if signal == "attentions" else view.extra.get(signal)
        if layers is None:
            raise SignalError(f"{self.name} needs the {side}'s {signal}, but the {side} sent none")
        if len(layers) != depth:
            raise SignalError(
                f"{self.name}: {signal} of {len(layers)} {side} blocks came, but its configuration says {depth}"
            )
        found: tuple[Tensor, ...] = layers
        return found


class Pair:
    """The signals of one pair of blocks, padding set to 0.

    Args:
        name: the objective, for messages.
        student, teacher: by signal, ``attentions`` [B, H, T, T], projections [B, T, E].
        tokens_BT: True on tokens.
        visible_BTT: which positions (last) each position looks at.

    Raises:
        SignalError: the two sides did not read the same tokens.
    """

    def __init__(
        self,
        name: str,
        student: dict[str, Tensor],
        teacher: dict[str, Tensor],
        tokens_BT: Tensor,
        visible_BTT: Tensor,
    ) -> None:
        self.name = name
        self.tokens_BT, self.visible_BTT = tokens_BT, visible_BTT
        self.student = {signal: self._cleaned(signal, value) for signal, value in student.items()}
        self.teacher = {signal: self._cleaned(signal, value) for signal, value in teacher.items()}

    def _cleaned(self, signal: str, value: Tensor) -> Tensor:
        if signal == "attentions":
            refuse_other_tokens(self.name, self.tokens_BT.shape, torch.Size([value.shape[0], value.shape[-1]]))
            keep_BTT = self.visible_BTT & self.tokens_BT[:, :, None] & self.tokens_BT[:, None, :]
            return value.masked_fill(~keep_BTT[:, None], 0)
        refuse_other_tokens(self.name, self.tokens_BT.shape, value.shape[:2])
        return value.masked_fill(~self.tokens_BT[:, :, None], 0)


def visible(mask_BT: Tensor, *, causal: bool) -> Tensor:
    """[B, T, T]: position t (first) looks at position s: a token, with ``causal`` none after t; and always at itself.

    >>> visible(torch.tensor([[1, 1, 0]]), causal=True)[0].int().tolist()
    [[1, 0, 0], [1, 1, 0], [1, 1, 1]]
    """
    length = mask_BT.shape[1]
    seen_BTT = mask_BT.bool()[:, None, :].expand(-1, length, -1)
    if causal:
        seen_BTT = seen_BTT & torch.ones(length, length, dtype=torch.bool, device=mask_BT.device).tril()
    return seen_BTT | torch.eye(length, dtype=torch.bool, device=mask_BT.device)


def matched_heads(
    name: str, heads: Literal["auto", "match", "mean"], student_BHTT: Tensor, teacher_BHTT: Tensor
) -> tuple[Tensor, Tensor]:
    """Attention probabilities of equally many heads: as they are, or the mean over heads of both sides.

    Raises:
        SignalError: ``match`` was asked for and the numbers differ.
    """
    n_student, n_teacher = student_BHTT.shape[1], teacher_BHTT.shape[1]
    if heads == "match" and n_student != n_teacher:
        raise SignalError(
            f"{name}: heads: match compares head by head, but the student has {n_student} heads and the teacher "
            f"{n_teacher}: use heads: mean (or auto)"
        )
    if heads == "mean" or n_student != n_teacher:
        return student_BHTT.mean(dim=1, keepdim=True), teacher_BHTT.mean(dim=1, keepdim=True)
    return student_BHTT, teacher_BHTT


def attention_kl(student_BHTT: Tensor, teacher_BHTT: Tensor) -> Tensor:
    """[B, T] KL(teacher || student) in nat of what each position attends to, mean over the heads."""
    tiny = torch.finfo(student_BHTT.dtype).tiny
    # 0 on both sides (not visible) is 0; a student's 0 under a teacher's weight is cut off at the smallest number
    log_ratio = teacher_BHTT.clamp_min(tiny).log() - student_BHTT.clamp_min(tiny).log()
    return (teacher_BHTT * log_ratio).sum(dim=-1).mean(dim=1)


def relation_heads(name: str, given: int | None, teacher_heads: int, widths: dict[str, int]) -> int:
    """How many parts all widths are cut into: as given, or the teacher's heads, or the next smaller common divisor.

    Raises:
        SignalError: the given number does not divide a width.

    >>> relation_heads("minilm", None, 9, {"student values": 192, "teacher values": 192})
    8
    """
    common = math.gcd(*widths.values())
    if given is None:
        return next(heads for heads in range(teacher_heads, 0, -1) if common % heads == 0)
    if common % given:
        said = ", ".join(f"{what} {width}" for what, width in widths.items())
        raise SignalError(
            f"{name}: relation_heads {given} does not divide every width ({said}); use a divisor of {common}, or leave "
            "relation_heads out"
        )
    return given


def relation_kl(student_BTE: Tensor, teacher_BTE: Tensor, heads: int, visible_BTT: Tensor) -> Tensor:
    """[B, T] KL(teacher || student) in nat of self-relations, mean over the relation heads.

    A relation is ``softmax(A A^T / sqrt(E / R))`` over visible positions, for A [T, E / R] of each relation head.
    """
    student_BRTT = _log_relation(student_BTE, heads, visible_BTT)
    teacher_BRTT = _log_relation(teacher_BTE, heads, visible_BTT)
    probability_BRTT = teacher_BRTT.exp().masked_fill(~visible_BTT[:, None], 0)
    return (probability_BRTT * (teacher_BRTT - student_BRTT)).sum(dim=-1).mean(dim=1)


def _log_relation(values_BTE: Tensor, heads: int, visible_BTT: Tensor) -> Tensor:
    """[B, R, T, T] log-probabilities, 0 where not visible."""
    n_sequences, length, width = values_BTE.shape
    split_BRTE = values_BTE.view(n_sequences, length, heads, width // heads).transpose(1, 2)
    scores_BRTT = split_BRTE @ split_BRTE.transpose(2, 3) / math.sqrt(width // heads)
    hidden_B1TT = ~visible_BTT[:, None]
    return scores_BRTT.masked_fill(hidden_B1TT, -math.inf).log_softmax(dim=-1).masked_fill(hidden_B1TT, 0)
