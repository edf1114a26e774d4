"""Networks trained on the real images, parameters after every epoch, on disk.

Legend: E epochs, P parameters.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from distill_core.errors import DataError
from distill_core.files import atomic_write_bytes, remove_temporaries


class ExpertBuffer:
    """A file per expert, [E + 1, P] fp32, memory-mapped; those that are there are not trained again.

    Args:
        directory: of the files; made if it is not there.
        key: what experts depend on: data, network, training, seed.
        train: number of an expert -> its [E + 1, P].
    """

    def __init__(self, directory: Path, key: str, train: Callable[[int], Tensor]) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        remove_temporaries(directory)
        self.directory, self.key, self.train = directory, key, train

    def expert(self, number: int) -> Tensor:
        """[E + 1, P], row 0 at the start; trained now if it is not on disk.

        Raises:
            DataError: its file is damaged or belongs to others.
        """
        path = self.directory / f"expert-{number:03d}.pt"
        if not path.exists():
            buffer = io.BytesIO()
            torch.save({"key": self.key, "parameters": self.train(number)}, buffer)
            atomic_write_bytes(path, buffer.getvalue())
        try:
            found = torch.load(path, weights_only=True, mmap=True)
            key, parameters = found["key"], found["parameters"]
        except Exception as error:
            raise DataError(
                f"{path}: no expert ({type(error).__name__}): the file is damaged; delete it, it is trained again"
            ) from error
        if key != self.key:
            raise DataError(f"{path} belongs to other data, options or another seed: delete it, it is trained again")
        kept: Tensor = parameters
        return kept
