"""A training by several processes (``torchrun``, ``accelerate launch``): one leads the run, the others follow it.

The leader holds the run directory, decides about every stage and writes manifests; a training is executed by all.
Other stages belong to one process: they have to be finished before.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from distill_core.errors import DistillError

if TYPE_CHECKING:
    from distill_core.engine.plan import Stage

STOP = "stop"


class Processes:
    """The processes of a launch; usually one."""

    def __init__(self, *, count: int = 1, rank: int = 0) -> None:
        self.count, self.rank = count, rank

    @classmethod
    def from_environment(cls) -> Processes:
        """As ``WORLD_SIZE`` and ``RANK`` say, which launchers set."""
        return cls(count=int(os.environ.get("WORLD_SIZE", "1")), rank=int(os.environ.get("RANK", "0")))

    @property
    def leads(self) -> bool:
        return self.rank == 0

    def join(self) -> None:
        """Meet the others; nothing for one process."""
        if self.count > 1:
            import torch
            from accelerate import PartialState

            PartialState(cpu=not torch.cuda.is_available())

    def check(self, stage: Stage) -> None:
        """Refuse a stage that several processes cannot share.

        Raises:
            DistillError: it is no training; names the command that runs it.
        """
        if self.count > 1 and stage.kind != "train":
            command = "run" if stage.kind in ("data", "student") else stage.kind
            raise DistillError(
                f"{stage.name} has to run, but this launch has {self.count} processes and only trainings are shared "
                f"between processes: run `distill {command} FILE` in one process first"
                + (" (`distill capture FILE` stops before the training)" if command == "run" else "")
            )

    def announce(self, what: str) -> None:
        """The leader says which stage comes next, or :data:`STOP`."""
        if self.count > 1:
            self._broadcast(what)

    def heard(self) -> str:
        """What the leader said."""
        return str(self._broadcast(None))

    def _broadcast(self, value: Any) -> Any:
        from torch.distributed import broadcast_object_list

        values = [value]
        broadcast_object_list(values, src=0)
        return values[0]
