"""``router``: a learned gate that says, row by row, which teacher to believe.

Legend: N rows, M teachers, F features per teacher.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from distill_core.interfaces import BuildContext
from distill_core.mixture import entropy, member_log_probs
from distill_core.types import RowTarget, TeacherSignals, TokenBatch
from distill_teachers.aggregators.options import RouterOptions
from distill_teachers.aggregators.weighing import label_log_probs, weighed

FEATURES = ("entropy", "top probability", "tail mass", "distance to the mean")


class Router:
    """Weights ``w = softmax(W f + b)`` from cheap features f of the teachers' own distributions, trained online.

    A linear gate of a mixture of experts (Jacobs, Jordan, Nowlan & Hinton 1991) over frozen teachers. After every
    optimizer step of the student it takes one Adam step on the mean over the rows of the step of

        -log sum_m w_m p_m(label)  +  balance * KL(mean of w || all alike)

    so it learns whom the text proves right. It starts with all teachers alike and sees labels in its loss alone, never
    in its features. It learns from training batches, not from held-out ones (while the student is in eval mode), and
    its weights and Adam's are in every checkpoint. Over several processes the gradient is summed, so they stay equal.

    Features per teacher: entropy (nat), log of the largest probability, tail mass, and total variation distance to the
    mean of all teachers.

    Args:
        options: ``learning_rate``, ``balance``.

    >>> Router(RouterOptions()).options.learning_rate
    0.05
    """

    def __init__(self, options: RouterOptions) -> None:
        self.options = options
        self.gate: nn.Linear | None = None
        self.optimizer: torch.optim.Optimizer | None = None
        self._student: nn.Module | None = None
        self._seen: list[tuple[Tensor, Tensor]] = []
        self._waiting: Mapping[str, Any] | None = None

    def build(self, ctx: BuildContext) -> None:
        """Remember the student, whose mode tells training from held-out batches."""
        self._student = ctx.student

    def combine(self, targets: Mapping[str, RowTarget], batch: TokenBatch, temperature: float) -> TeacherSignals:
        """As :class:`distill_core.interfaces.Aggregator`."""
        features_NX = features(targets, temperature)
        gate = self._gate(len(targets))
        with torch.no_grad():
            weights_NM = gate(features_NX).softmax(dim=1)
        if self._student is not None and self._student.training:
            self._seen.append((features_NX, label_log_probs(targets, batch).T.double().cpu()))
        return weighed(targets, weights_NM, temperature)

    def on_step_end(self, ctx: Any) -> None:
        """One step of the gate on what was seen since the last one."""
        if not self._seen or self.gate is None or self.optimizer is None:
            return
        self.optimizer.zero_grad()
        with torch.enable_grad():
            self.loss(
                torch.cat([features_NX for features_NX, _ in self._seen]), torch.cat([logp for _, logp in self._seen])
            ).backward()
        self._seen.clear()
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            self._sum_gradients()
        self.optimizer.step()

    def loss(self, features_NX: Tensor, label_logp_NM: Tensor) -> Tensor:
        """The gate's own loss: see the class."""
        assert self.gate is not None
        logw_NM = self.gate(features_NX).log_softmax(dim=1)
        value = -torch.logsumexp(logw_NM + label_logp_NM.clamp_min(-1e30), dim=1).mean()
        if self.options.balance > 0:
            mean_M = logw_NM.exp().mean(dim=0)
            value = value + self.options.balance * (mean_M * (mean_M * len(mean_M)).log()).sum()
        return value

    def state_dict(self) -> dict[str, Any]:
        """The gate and its optimizer; empty before the first batch."""
        if self.gate is None or self.optimizer is None:
            return dict(self._waiting or {})
        return {"gate": self.gate.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Kept until the first batch says how many teachers there are."""
        self._waiting = copy.deepcopy(dict(state))
        self.gate = self.optimizer = None

    def _gate(self, members: int) -> nn.Linear:
        if self.gate is None:
            self.gate = nn.Linear(members * len(FEATURES), members, dtype=torch.float64)
            nn.init.zeros_(self.gate.weight)
            nn.init.zeros_(self.gate.bias)
            self.optimizer = torch.optim.Adam(self.gate.parameters(), lr=self.options.learning_rate)
            if self._waiting:
                self.gate.load_state_dict(self._waiting["gate"])
                self.optimizer.load_state_dict(self._waiting["optimizer"])
                self._waiting = None
        return self.gate

    def _sum_gradients(self) -> None:
        assert self.gate is not None
        device = next(self._student.parameters()).device if self._student is not None else torch.device("cpu")
        for parameter in self.gate.parameters():
            assert parameter.grad is not None
            gradient = parameter.grad.to(device)
            torch.distributed.all_reduce(gradient)
            parameter.grad.copy_(gradient / torch.distributed.get_world_size())


def features(targets: Mapping[str, RowTarget], temperature: float) -> Tensor:
    """[N, M x F] features of a row, float64, on the CPU."""
    logp_MNK1 = member_log_probs(targets, temperature).double()
    p_MNK1 = logp_MNK1.exp()
    distance_MN = 0.5 * (p_MNK1 - p_MNK1.mean(dim=0)).abs().sum(dim=2)
    stacked_MNF = torch.stack(
        [entropy(logp_MNK1), logp_MNK1[:, :, :-1].amax(dim=2).clamp_min(-30), p_MNK1[:, :, -1], distance_MN], dim=2
    )
    return stacked_MNF.transpose(0, 1).flatten(1).cpu()
