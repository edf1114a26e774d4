"""What lives beside the student while it trains: a live teacher that changes with it, a rollout.

Each may have ``build(ctx)`` before the first step, ``on_step_end(ctx)`` after each, and a state that goes into every
checkpoint: ``state_dict()`` of tensors and plain numbers, and ``load_state_dict(state)``. ``metrics()`` gives numbers
of the last step, by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from distill_core.engine.objectives import StepContext
from distill_core.errors import TrainingError
from distill_core.interfaces import BuildContext


class Companions:
    """The companions of a training by role (``teacher``, ``rollout``); those that are None are left out."""

    def __init__(self, members: Mapping[str, Any]) -> None:
        self.members = {role: member for role, member in members.items() if member is not None}

    def build(self, context: BuildContext) -> None:
        """Call ``build(ctx)`` of those that have one."""
        for member in self.members.values():
            if hasattr(member, "build"):
                member.build(context)

    def step_ended(self, step: int, total_steps: int) -> None:
        """Call ``on_step_end`` of those that have one; ``step`` optimizer steps are done."""
        for member in self.members.values():
            if hasattr(member, "on_step_end"):
                member.on_step_end(StepContext(step, total_steps))

    def metrics(self) -> dict[str, float]:
        """What those report of the last step, as ``role.name``."""
        return {
            f"{role}.{name}": float(value)
            for role, member in self.members.items()
            if hasattr(member, "metrics")
            for name, value in member.metrics().items()
        }

    def state_dict(self) -> dict[str, Any]:
        """State of those that have one, by role."""
        return {role: member.state_dict() for role, member in self.members.items() if hasattr(member, "state_dict")}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Undo :meth:`state_dict`.

        Raises:
            TrainingError: the state is of other companions.
        """
        expected = set(self.state_dict())
        if expected != set(state):
            raise TrainingError(
                f"the checkpoint holds the state of {sorted(state) or 'no companion'} beside the student, this "
                f"training has {sorted(expected) or 'none'}: was the teacher or the rollout changed?"
            )
        for role, own in state.items():
            self.members[role].load_state_dict(own)
