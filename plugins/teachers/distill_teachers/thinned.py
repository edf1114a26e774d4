"""A teacher thinned to some of its layers, made once and kept in the cache as a model directory of its own."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from distill_core.engine.checkpoints import whole_directory
from distill_core.engine.student import keep_layers, without_progress_bars


def thinned_directory(identity: str, layers: Sequence[int], *, cache: Path, load: Any) -> Path:
    """The directory of the thinned model, under a key that holds the whole model's identity and the layers.

    Args:
        identity: of the whole model, equal on every machine.
        layers: indices from 0, in order.
        cache: where converted models are kept.
        load: gives (model, tokenizer) of the whole model; called only if the directory is not there.

    Raises:
        TrainingError: a layer that does not exist, or a model that cannot be cut.
    """
    listed = ",".join(map(str, layers))
    key = hashlib.sha256(f"{identity}:{listed}".encode()).hexdigest()[:32]
    directory = cache / "layers" / key
    if (directory / "config.json").is_file():
        return directory
    model, tokenizer = load()
    cut = keep_layers(model, layers)
    directory.parent.mkdir(parents=True, exist_ok=True)
    with whole_directory(directory) as temporary, without_progress_bars():
        cut.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
    return directory
