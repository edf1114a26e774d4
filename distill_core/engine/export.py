"""What a training hands over: the student as a normal Transformers directory, nothing of the training in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from distill_core.engine.checkpoints import whole_directory
from distill_core.engine.head import remove_fused_head
from distill_core.engine.objectives import ATTACHED_NAME, ObjectiveSet
from distill_core.engine.trainer import DistillTrainer


def base_model(model: Any) -> Any:
    """The ``PreTrainedModel`` inside a PEFT model, or the model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def export_student(trainer: DistillTrainer, objectives: ObjectiveSet, tokenizer: Any, directory: Path) -> None:
    """Write ``model/``: no fused head, no objective, adapters merged. Every process makes the call.

    A LoRA student also leaves its adapters in ``adapter/``; parameters of objectives that say ``exported = True`` go to
    ``objectives/NAME.safetensors``.
    """
    state = trainer.student_state()
    main = trainer.is_world_process_zero()
    exported = objectives.exported()
    plain = trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False)
    if hasattr(plain, ATTACHED_NAME):
        delattr(plain, ATTACHED_NAME)
    base = base_model(plain)
    remove_fused_head(base)
    if main and exported:
        with whole_directory(directory / "objectives") as temporary:
            for name, tensors in exported.items():
                save_file(tensors, temporary / f"{name}.safetensors")
    if main and base is not plain:
        with whole_directory(directory / "adapter") as temporary:
            plain.save_pretrained(temporary, state_dict=state)
        base, state = plain.merge_and_unload(), None
    if main:
        with whole_directory(directory / "model") as temporary:
            base.save_pretrained(temporary, state_dict=state)
            if tokenizer is not None:
                tokenizer.save_pretrained(temporary)
    trainer.accelerator.wait_for_everyone()
