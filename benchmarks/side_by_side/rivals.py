"""TRL's trainers on the same sequences, in fp32, with its chunked and its plain forward KL (beta = 0).

`DistillationTrainer` writes its completions with the student; here it is handed those of the data instead, so that it
is off-policy as well: every token but the first is a completion. Nothing else of it is changed. `GKDTrainer` is
off-policy at `lmbda = 0`. Both have gradient checkpointing switched off, as ours is.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from benchmarks.peers import INSTALL
from benchmarks.side_by_side.clock import Clock
from benchmarks.side_by_side.world import World

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")


def missing() -> str | None:
    """Why TRL cannot take part; None if it can."""
    try:
        import trl
    except ImportError as error:
        return f"{error.name or 'trl'} is not installed ({INSTALL})"
    return None if hasattr(trl, "DistillationTrainer") else f"trl {trl.__version__} has no DistillationTrainer"


def arguments(world: World, scratch: Path) -> dict[str, Any]:
    """What both of TRL's configs are given."""
    s = world.settings
    return {
        "output_dir": str(scratch / "trl"),
        "max_steps": s.steps,
        "per_device_train_batch_size": s.batch,
        "gradient_accumulation_steps": 1,
        "learning_rate": s.learning_rate,
        "lr_scheduler_type": "constant_with_warmup",
        "warmup_steps": s.lr_warm_up,
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "gradient_checkpointing": False,
        "bf16": False,
        "use_cpu": True,
        "seed": s.seed,
        "beta": 0.0,
        "temperature": 1.0,
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
    }


def loaded(path: Path) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)


def distillation(world: World, scratch: Path) -> dict[str, Any]:
    """`trl.DistillationTrainer`: both heads in chunks, neither model's logits exist in full."""
    from datasets import Dataset
    from trl import DistillationConfig, DistillationTrainer

    sequences, s = world.sequences(), world.settings

    class OffPolicy(DistillationTrainer):  # type: ignore[misc]
        """The data's own tokens where the student would write."""

        def _generate(self, prompts: list[str]) -> Any:
            chosen = [sequences[int(prompt)] for prompt in prompts]
            return [ids[:1] for ids in chosen], [ids[1:] for ids in chosen], None, None, []

    tokenizer = world.tokenizer()
    tokenizer.padding_side = "left"
    config = DistillationConfig(
        **arguments(world, scratch), shuffle_dataset=False, max_completion_length=s.length, disable_dropout=True
    )
    trainer = OffPolicy(
        model=loaded(world.student),
        teacher_model=loaded(world.teacher),
        args=config,
        train_dataset=Dataset.from_dict({"prompt": [str(number) for number in range(len(sequences))]}),
        processing_class=tokenizer,
    )
    return _trained(trainer, world, scratch)


def gkd(world: World, scratch: Path) -> dict[str, Any]:
    """`trl.experimental.gkd.GKDTrainer`: all logits of both models."""
    import torch
    from datasets import Dataset
    from trl.experimental.gkd import GKDConfig, GKDTrainer

    def collate(rows: list[dict[str, Any]]) -> dict[str, Any]:
        ids_BT = torch.tensor([row["input_ids"] for row in rows])
        labels_BT = ids_BT.clone()
        labels_BT[:, 0] = -100
        return {"input_ids": ids_BT, "attention_mask": torch.ones_like(ids_BT), "labels": labels_BT}

    config = GKDConfig(
        **arguments(world, scratch), lmbda=0.0, train_sampling_strategy="sequential", max_length=world.settings.length
    )
    trainer = GKDTrainer(
        model=loaded(world.student),
        teacher_model=loaded(world.teacher),
        args=config,
        data_collator=collate,
        train_dataset=Dataset.from_dict({"input_ids": world.sequences()}),
        processing_class=world.tokenizer(),
    )
    return _trained(trainer, world, scratch)


def _trained(trainer: Any, world: World, scratch: Path) -> dict[str, Any]:
    from transformers import TrainerCallback

    clock = Clock()

    class Marks(TrainerCallback):
        """Called after the step's line has been logged, as ours is."""

        def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any], **kwargs: Any) -> None:
            if "loss" in logs:
                clock.mark()

    trainer.add_callback(Marks())
    trainer.train()
    model = scratch / "model"
    trainer.save_model(str(model))
    losses = [float(line["loss"]) for line in trainer.state.log_history if "loss" in line]
    return {**clock.result(world.settings.warm_up), "losses": losses, "model": str(model)}
