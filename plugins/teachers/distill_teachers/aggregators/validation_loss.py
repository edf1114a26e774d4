"""``validation-loss``: teachers that predict held-out text better count more, everywhere alike.

Legend: M teachers, N rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from distill_core.errors import SignalError
from distill_core.interfaces import BuildContext
from distill_core.types import RowTarget, TeacherSignals, TokenBatch
from distill_teachers.aggregators.options import ValidationLossOptions
from distill_teachers.aggregators.weighing import weighed, weights_by_name
from distill_teachers.held_out import held_out_batches, label_loss
from distill_teachers.nested import build_nested


class ValidationLoss:
    """Weights ``w_m ~ exp(-beta L_m)``, L_m the teacher's held-out cross-entropy in nat per token.

    At ``beta`` = n this is the posterior of the teachers given n held-out tokens that it predicts on average as well as
    here, under equal priors (Bayesian model averaging), so a large ``beta`` is a choice of one teacher.

    Args:
        options: ``losses`` (numbers), or ``source`` on which live teachers are measured in ``build``.

    Raises:
        SignalError: ``source`` where teachers are stores, which know their own sequences alone.

    >>> ValidationLoss(ValidationLossOptions(losses={"a": 2.0, "b": 3.0})).losses
    {'a': 2.0, 'b': 3.0}
    """

    def __init__(self, options: ValidationLossOptions) -> None:
        self.options = options
        self.losses: dict[str, float] | None = None if options.losses is None else dict(options.losses)

    def build(self, ctx: BuildContext) -> None:
        """Measure the teachers, unless the losses are given or were measured already."""
        if self.losses is not None:
            return
        members: Mapping[str, Any] | None = getattr(ctx.teacher, "members", None)
        if members is None:
            raise SignalError(
                "aggregator validation-loss: source is measured on live teachers (train.teacher: live), but this "
                "training reads a store, which knows its own sequences alone: give their held-out `losses`"
            )
        assert self.options.source is not None
        batches = list(
            held_out_batches(
                build_nested("source", self.options.source),
                ctx.tokenizer,
                sequences=self.options.sequences,
                length_tokens=self.options.sequence_length_tokens,
            )
        )
        self.losses = {name: float(label_loss(member, batches, (1.0,))[0]) for name, member in members.items()}

    def combine(self, targets: Mapping[str, RowTarget], batch: TokenBatch, temperature: float) -> TeacherSignals:
        """As :class:`distill_core.interfaces.Aggregator`."""
        return weighed(targets, self.weights(targets), temperature)

    def weights(self, names: Mapping[str, Any]) -> Tensor:
        """[M] weights in the order of the teachers."""
        if self.losses is None:
            raise RuntimeError("aggregator validation-loss: call build(ctx) before the first batch")
        loss_M = weights_by_name(self.losses, names, owner="aggregator validation-loss", option="losses")
        return (-self.options.beta * loss_M).softmax(dim=0)

    def state_dict(self) -> dict[str, Any]:
        """The losses, so that a resumed training weighs as it did."""
        return {"losses": dict(self.losses or {})}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.losses = {name: float(loss) for name, loss in state["losses"].items()}
