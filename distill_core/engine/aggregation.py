"""Several teachers as one: their distributions on the union of their supports, mixed by an aggregator.

Legend: N rows, K support of one teacher, U size of the union.

A mixture needs every teacher's probability of every token of the support. Live teachers are asked twice: for their own
supports, then for the union. Stores hold it if they were captured together (``capture.joint``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from distill_core.engine.head_pass import same_ids, union_of_supports
from distill_core.errors import SignalError
from distill_core.interfaces import Aggregator, Teacher, VocabularyInfo
from distill_core.plugin import Needs
from distill_core.types import RowTarget, SparseSpec, TeacherSignals, TokenBatch


class AggregatedTeacher:
    """The teacher that an aggregator makes of several.

    Args:
        members: teachers by name, at least one, of one vocabulary.
        aggregator: mixes their answers.

    Raises:
        SignalError: no members, or members of different vocabularies.
    """

    def __init__(self, members: Mapping[str, Teacher], aggregator: Aggregator) -> None:
        if not members:
            raise SignalError("an aggregate of teachers needs at least one, received none")
        self.members = dict(members)
        self.aggregator = aggregator
        prints = {name: member.vocabulary().fingerprint for name, member in members.items()}
        if len(set(prints.values())) > 1:
            listed = ", ".join(f"{name}: {value[:8]}" for name, value in prints.items())
            raise SignalError(
                f"distributions of teachers with different tokenizers cannot be mixed ({listed}): mix losses instead, "
                "each objective with a `source` of its own"
            )

    def build(self, ctx: Any) -> None:
        for part in (*self.members.values(), self.aggregator):
            if hasattr(part, "build"):
                part.build(ctx)

    def on_step_end(self, ctx: Any) -> None:
        for part in (*self.members.values(), self.aggregator):
            if hasattr(part, "on_step_end"):
                part.on_step_end(ctx)

    def state_dict(self) -> dict[str, Any]:
        """The aggregator's state, empty where it has none."""
        return dict(self.aggregator.state_dict()) if hasattr(self.aggregator, "state_dict") else {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if hasattr(self.aggregator, "load_state_dict"):
            self.aggregator.load_state_dict(state)

    def vocabulary(self) -> VocabularyInfo:
        return next(iter(self.members.values())).vocabulary()

    def identity(self) -> str:
        return " + ".join(f"{name}={member.identity()}" for name, member in self.members.items())

    def signals(self, batch: TokenBatch, needs: Needs, sparse: SparseSpec | None = None) -> TeacherSignals:
        """The mixed target, and what else the aggregator says of its teachers; other signals cannot be mixed.

        Raises:
            SignalError: a signal that the aggregator does not give, several temperatures, or members without a common
                support.
        """
        temperatures = needs.temperatures or (1.0,)
        if len(temperatures) != 1:
            raise SignalError(
                f"a mixture is made at one temperature, but the objectives read {list(temperatures)}: give them the "
                "same temperature, or one teacher each"
            )
        targets = joint_targets(self.members, batch, replace(needs, signals=frozenset({"targets"})), sparse)
        mixed = self.aggregator.combine(targets, batch, temperatures[0])
        lacking = sorted(needs.signals - {"targets"} - set(mixed.extra))
        if lacking:
            raise SignalError(
                f"{', '.join(lacking)} of several teachers cannot be mixed: name one teacher as the objective's "
                f"source, or an aggregator that gives it (this one gives {', '.join(sorted(mixed.extra)) or 'none'})"
            )
        return mixed


def joint_targets(
    members: Mapping[str, Teacher], batch: TokenBatch, needs: Needs, sparse: SparseSpec | None
) -> dict[str, RowTarget]:
    """Every member's exact target on the union of their supports and the label, entries in one order.

    The label is there so that every teacher's likelihood of it is known, whatever its support: aggregators weigh by it.

    Raises:
        SignalError: a member gives no exact target, or none on the ids it was asked for.
    """
    targets = {name: _exact(name, member.signals(batch, needs, sparse).target) for name, member in members.items()}
    ordered = {name: by_id(target) for name, target in targets.items()}
    labels_N = batch.rows().labels_N
    supports = [target.ids_NK for target in ordered.values()]
    ids_NU = union_of_supports([*supports, labels_N[:, None].to(supports[0].device)], labels_N)
    if not _all_on(ids_NU, ordered.values()):
        spec = sparse or SparseSpec("topk", ids_NU.shape[1], needs.temperatures or (1.0,))
        asked = replace(spec, method="topk", ids_NK=ids_NU)
        targets = {name: _exact(name, member.signals(batch, needs, asked).target) for name, member in members.items()}
        ordered = {name: by_id(target) for name, target in targets.items()}
        ids_NU = by_id(_ids_alone(ids_NU)).ids_NK
        for name, target in ordered.items():
            if not same_ids(target.ids_NK, ids_NU):
                raise SignalError(
                    f"the teacher {name} did not answer on the union of the supports: a store serves a mixture only if "
                    "its teachers were captured together (capture.joint: true)"
                )
    return ordered


def _all_on(ids_NU: Tensor, targets: Any) -> bool:
    return all(same_ids(target.ids_NK, ids_NU) for target in targets)


def _ids_alone(ids_NK: Tensor) -> RowTarget:
    return RowTarget("exact", ids_NK, (), logits_NK=torch.zeros(ids_NK.shape))


def by_id(target: RowTarget) -> RowTarget:
    """The target with the entries of each row by descending id, padding last, no column of padding alone."""
    order_NK = target.ids_NK.argsort(dim=1, descending=True)
    ids_NK = target.ids_NK.gather(1, order_NK)
    width = int((ids_NK >= 0).sum(dim=1).max()) if len(ids_NK) else ids_NK.shape[1]
    assert target.logits_NK is not None
    logits_NK = target.logits_NK.gather(1, order_NK.to(target.logits_NK.device))
    return replace(target, ids_NK=ids_NK[:, :width].contiguous(), logits_NK=logits_NK[:, :width].contiguous())


def _exact(name: str, target: RowTarget | None) -> RowTarget:
    if target is None or target.kind != "exact":
        found = "none" if target is None else f"a {target.kind} one"
        raise SignalError(
            f"mixing distributions needs exact targets, but the teacher {name} gave {found}: method: topk"
        )
    return target
