"""Asking the teacher for one micro-batch, and refusing answers that would poison the training.

Legend: N rows, K support size.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from distill_core.errors import SignalError, TrainingError
from distill_core.interfaces import Teacher
from distill_core.plugin import Needs
from distill_core.types import RowTarget, SparseSpec, TeacherSignals, TokenBatch


def ask_teacher(
    teacher: Teacher | None, batch: TokenBatch, needs: Needs, sparse: SparseSpec | None, device: torch.device
) -> TeacherSignals:
    """The teacher's signals for a batch, on the student's device; empty if no objective needs any.

    Args:
        teacher: None where objectives need no teacher.
        batch: on the CPU.
        needs: union over the objectives at this step.
        sparse: how a live teacher's distribution is made sparse; a stored one returns what it holds.
        device: where the student is.

    Raises:
        TrainingError: NaN or infinity in the answer; names the teacher.
        SignalError: something is needed that the teacher does not give.
    """
    if not needs.signals:
        return TeacherSignals()
    if teacher is None:
        raise SignalError(
            f"the objectives need {', '.join(sorted(needs.signals))} of a teacher, but this training has none: set "
            "train.teacher, or use objectives without a teacher such as cross-entropy"
        )
    with torch.no_grad():
        signals = teacher.signals(batch, needs, sparse)
    _check_complete(signals, needs, teacher, len(batch.rows()))
    _check_finite(signals, batch, teacher)
    return TeacherSignals(
        target=None if signals.target is None else _detached(signals.target).to(device),
        hidden_states=_moved(signals.hidden_states, device),
        attentions=_moved(signals.attentions, device),
        extra={name: _placed(value, device) for name, value in signals.extra.items()},
    )


def choose_draw(teacher: Any, epoch: int) -> None:
    """A store that holds several samples per row answers with another one in each epoch."""
    store = getattr(teacher, "teacher", teacher)  # the store itself, where a vocabulary policy stands in front of it
    draws = getattr(getattr(store, "meta", None), "draws", 1)
    if draws > 1:
        store.draw = epoch % draws


def _placed(value: Any, device: torch.device) -> Any:
    if isinstance(value, Tensor):
        return value.detach().to(device)
    if isinstance(value, tuple) and value and all(isinstance(one, Tensor) for one in value):
        return _moved(value, device)
    return value


def _moved(tensors: tuple[Tensor, ...] | None, device: torch.device) -> tuple[Tensor, ...] | None:
    return None if tensors is None else tuple(tensor.detach().to(device) for tensor in tensors)


def _detached(target: RowTarget) -> RowTarget:
    fields = ("logits_NK", "tail_NM", "weights_NK", "entropy_N", "threshold_N")
    present = {name: value.detach() for name in fields if (value := getattr(target, name)) is not None}
    return replace(target, **present)


def _check_complete(signals: TeacherSignals, needs: Needs, teacher: Teacher, rows: int) -> None:
    given = {"targets": signals.target, "hidden_states": signals.hidden_states, "attentions": signals.attentions}
    for signal in sorted(needs.signals):
        if given.get(signal, signals.extra.get(signal)) is None:
            raise SignalError(f"teacher {teacher.identity()} was asked for {signal} and gave none")
    if signals.target is not None and len(signals.target) != rows:
        raise SignalError(
            f"teacher {teacher.identity()} answered {len(signals.target)} rows for a batch of {rows}; a target has one "
            "row per entry of batch.rows()"
        )


def _check_finite(signals: TeacherSignals, batch: TokenBatch, teacher: Teacher) -> None:
    problem = _target_problem(signals.target) or _states_problem(signals, batch)
    if problem is not None:
        documents = f" (documents {', '.join(batch.documents[:3])})" if batch.documents else ""
        raise TrainingError(
            f"teacher {teacher.identity()} gave values that are not finite: {problem}, first seen in a batch of "
            f"{len(batch.input_ids_BT)} sequences{documents}; check its weights and its dtype (float16 overflows where "
            "bfloat16 does not)"
        )


def _target_problem(target: RowTarget | None) -> str | None:
    """-inf is a probability of 0 and legal; NaN and +inf are not, nor is a row without any mass."""
    if target is None:
        return None
    padding_NK = target.ids_NK < 0
    for name, value, may_vanish in (
        ("logits", target.logits_NK, True),
        ("tail", target.tail_NM, True),
        ("weights", target.weights_NK, False),
        ("entropy", target.entropy_N, False),
    ):
        if value is None:
            continue
        seen = value.masked_fill(padding_NK, 0) if name in ("logits", "weights") else value
        broken = ~torch.isfinite(seen)
        if may_vanish:
            broken &= ~torch.isneginf(seen)
        if bool(broken.any()):
            return f"{int(broken.sum())} of {seen.numel()} {name} are NaN or infinite"
    if target.logits_NK is not None and target.tail_NM is not None:
        gone_NK = padding_NK | torch.isneginf(target.logits_NK)
        empty_N = gone_NK.all(dim=1) & torch.isneginf(target.tail_NM).all(dim=1)
        if bool(empty_N.any()):
            return f"{int(empty_N.sum())} rows have no probability anywhere (all logits are -inf)"
    return None


def _states_problem(signals: TeacherSignals, batch: TokenBatch) -> str | None:
    """Values at padding are never read, so they may be anything."""
    mask_BT = batch.attention_mask_BT.bool()
    for kind, states in (("hidden states", signals.hidden_states), ("attentions", signals.attentions)):
        for layer, state in enumerate(states or ()):
            by_token_BT = state if kind == "hidden states" else state.transpose(1, 2)
            # A model that makes positions of its own (patches) has no padding among them.
            values = by_token_BT if batch.inputs else by_token_BT[mask_BT.to(state.device)]
            if not bool(torch.isfinite(values).all()):
                return f"{kind} of layer {layer} hold NaN or infinite values"
    return None
