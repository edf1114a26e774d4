"""Real and synthetic sequences as points, for the map on the report's page.

Legend: n sequences, D numbers of a point.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from distill_core.engine.data import TokenSequence
from distill_core.interfaces import Task

MOST, MOST_NUMBERS = 240, 4_000_000
"""Sequences of a kind that become points, and numbers of all of them; of more, every so many-th sequence is taken."""

PIXELS, EMBEDDINGS = "what the model reads", "mean token embeddings of the initial student"


def points_of(
    groups: Mapping[str, Sequence[TokenSequence]], *, student: Path, task: Task | None, trust_remote_code: bool = False
) -> tuple[str, dict[str, npt.NDArray[np.float32]]]:
    """What the points are, and those of every group, [n, D].

    Where the model reads numbers of one shape instead of token ids (pixels), those, flattened; else the mean of the
    initial student's embeddings of a sequence's tokens, and zeros for a sequence without any.

    Args:
        groups: sequences by name; of more than :data:`MOST`, every so many-th is taken.
        student: directory of the initial student.
        task: what it predicts; None: the next token.
        trust_remote_code: run code that comes with the student.
    """
    taken = {name: every(found, MOST) for name, found in groups.items()}
    shapes = {
        tuple((key, value.shape) for key, value in sorted(one.inputs.items()))
        for found in taken.values()
        for one in found
    }
    if len(shapes) == 1 and shapes != {()}:
        wide = sum(math.prod(shape) for _, shape in shapes.pop())
        bound = max(2, MOST_NUMBERS // wide)
        return PIXELS, {
            name: _stacked([_flat(one) for one in every(found, bound)], wide) for name, found in taken.items()
        }
    table_VD = _embeddings(student, task, trust_remote_code)
    width = table_VD.shape[1]
    return EMBEDDINGS, {name: _stacked([_mean(table_VD, one) for one in found], width) for name, found in taken.items()}


def every(sequences: Sequence[TokenSequence], most: int) -> list[TokenSequence]:
    """At most ``most`` of them, evenly spread.

    >>> every([10, 11, 12, 13, 14], 3), every([7, 8], 3)
    ([10, 12, 14], [7, 8])
    """
    return [sequences[index] for index in range(0, len(sequences), -(-len(sequences) // most) or 1)]


def _flat(sequence: TokenSequence) -> npt.NDArray[np.float32]:
    parts = [np.ravel(value).astype(np.float32) for _, value in sorted(sequence.inputs.items())]
    return np.concatenate(parts)


def _mean(table_VD: npt.NDArray[np.float32], sequence: TokenSequence) -> npt.NDArray[np.float32]:
    if not len(sequence):
        return np.zeros(table_VD.shape[1], dtype=np.float32)
    mean: npt.NDArray[np.float32] = table_VD[sequence.input_ids].mean(axis=0)
    return mean


def _stacked(points: list[npt.NDArray[np.float32]], width: int = 0) -> npt.NDArray[np.float32]:
    return np.stack(points) if points else np.zeros((0, width), dtype=np.float32)


def _embeddings(student: Path, task: Task | None, trust_remote_code: bool) -> Any:
    """[V, D] input embeddings of a model directory, fp32."""
    import torch

    from distill_core.engine.tasks import auto_class

    model = auto_class(task).from_pretrained(student, dtype=torch.float32, trust_remote_code=trust_remote_code)
    return model.get_input_embeddings().weight.detach().cpu().numpy()
