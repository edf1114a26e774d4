"""The state of a matching on disk: whole or absent, and only ever read by the run that wrote it."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from distill_core.errors import DataError
from distill_core.files import atomic_write_bytes, remove_temporaries

STATE_FILE = "state/matching.pt"
"""In a folder of its own: what a killed process left there is removed, and the engine writes records beside it."""


@dataclass
class State:
    """What a matching has come to.

    Args:
        key: what it depends on: data, options, seed.
        iteration: steps taken.
        variables: what is learned, by name.
        velocity: momentum of each.
        values: the loss of every step.
    """

    key: str
    iteration: int
    variables: dict[str, Tensor]
    velocity: dict[str, Tensor]
    values: list[float] = field(default_factory=list)

    def save(self, directory: Path, file: str = STATE_FILE) -> None:
        """Atomically."""
        buffer = io.BytesIO()
        tensors = {"variables": _on_cpu(self.variables), "velocity": _on_cpu(self.velocity)}
        torch.save({**tensors, "key": self.key, "iteration": self.iteration, "values": json.dumps(self.values)}, buffer)
        atomic_write_bytes(directory / file, buffer.getvalue())


def _on_cpu(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}


def load_state(directory: Path, key: str, file: str = STATE_FILE) -> State | None:
    """The state in a directory, or None.

    Raises:
        DataError: it cannot be read, or belongs to other data, options or another seed.
    """
    path = directory / file
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_temporaries(path.parent)
    if not path.exists():
        return None
    try:
        found = torch.load(path, weights_only=True)
        state = State(
            found["key"], found["iteration"], found["variables"], found["velocity"], json.loads(found["values"])
        )
    except Exception as error:
        raise DataError(
            f"{path}: no state of a matching ({type(error).__name__}): the file is damaged; delete it to start over"
        ) from error
    if state.key != key:
        raise DataError(
            f"{path} belongs to other data, options or another seed (key {state.key[:8]}, expected {key[:8]}): delete "
            "it to start over, or choose another directory"
        )
    return state
