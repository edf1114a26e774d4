"""A ``transformers.Trainer`` whose checkpoints are whole or not there: state of objectives and companions included."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import Trainer

from distill_core.engine import checkpoints
from distill_core.engine.companions import Companions
from distill_core.engine.objectives import ATTACHED_NAME, ObjectiveSet
from distill_core.engine.recording import Recording

OBJECTIVE_STATE_FILE = "objectives.pt"
COMPANION_STATE_FILE = "companions.pt"


class WholeCheckpoints(Trainer):
    """Writes into a hidden directory that gets its name when everything is in it; the student is saved alone."""

    objectives: ObjectiveSet
    companions: Companions
    recording: Recording
    _staging: Path | None = None

    def _get_output_dir(self, trial: Any) -> str:
        return str(self._staging) if self._staging is not None else str(super()._get_output_dir(trial))

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """The Trainer writes into a hidden directory; it gets its name when it is whole."""
        root, step = self.recording.checkpoint_root, self.state.global_step
        if self.is_world_process_zero():
            checkpoints.clear_staging(root)
        self.accelerator.wait_for_everyone()
        self._staging = checkpoints.staging_directory(root)
        try:
            super()._save_checkpoint(model, trial)
        finally:
            staged, self._staging = self._staging / f"{checkpoints.CHECKPOINT_PREFIX}{step}", None
        if self.is_world_process_zero():
            torch.save(self._objective_state(), staged / OBJECTIVE_STATE_FILE)
            torch.save(self.companions.state_dict(), staged / COMPANION_STATE_FILE)
            (staged / "training_args.bin").unlink(missing_ok=True)  # a pickle that nobody reads
        self.accelerator.wait_for_everyone()
        if self.is_world_process_zero():
            checkpoints.seal(staged, step=step, identity=self.recording.identity)
            checkpoints.publish(staged, root, step=step, keep=self.recording.keep_checkpoints)
            checkpoints.clear_staging(root)
        self.accelerator.wait_for_everyone()

    def _objective_state(self) -> dict[str, Any]:
        """State of the objectives; under FSDP that of modules lies with the model's shards."""
        state = self.objectives.state_dict()
        if not self.is_fsdp_enabled:
            return state
        modules = {entry.name for entry in self.objectives.entries if isinstance(entry.objective, nn.Module)}
        return {name: value for name, value in state.items() if name not in modules}

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        with self._objectives_detached():
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        state = torch.load(Path(resume_from_checkpoint) / OBJECTIVE_STATE_FILE, weights_only=True, map_location="cpu")
        kept = self._objective_state().keys()
        self.objectives.load_state_dict(state, only=kept)
        path = Path(resume_from_checkpoint) / COMPANION_STATE_FILE
        self.companions.load_state_dict(torch.load(path, weights_only=True, map_location="cpu"))

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """The student alone: objective modules are saved beside it."""
        if state_dict is not None:
            state_dict = {name: value for name, value in state_dict.items() if ATTACHED_NAME not in name.split(".")}
        with self._objectives_detached():
            super()._save(output_dir, state_dict)

    @contextmanager
    def _objectives_detached(self) -> Iterator[None]:
        """Hide the objective modules from ``state_dict``; under FSDP they are part of the sharded model."""
        modules = getattr(self.model, ATTACHED_NAME, None)
        if modules is None or self.is_fsdp_enabled:
            yield
            return
        delattr(self.model, ATTACHED_NAME)
        try:
            yield
        finally:
            setattr(self.model, ATTACHED_NAME, modules)
