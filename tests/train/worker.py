"""One optimizer step, its gradients written to a file: `python -m tests.train.worker SETTINGS.json`, or by torchrun.

The optimizer is plain gradient descent with learning rate 1, so a parameter moves by exactly its gradient. With
`strategy: fsdp2` the Trainer shards the model by accelerate's FSDP2 on the CPU.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch
from torch.distributed.tensor import DTensor

from distill_core.config import InitConfig, PeftSection, StudentConfig
from distill_core.engine import training
from distill_core.engine.data import TokenDataset
from distill_core.engine.trainer import DistillTrainer
from tests.train.setting import objectives, run_training, tiny_teacher


def whole(parameter: torch.Tensor) -> torch.Tensor:
    value = parameter.detach()
    return value.full_tensor().clone() if isinstance(value, DTensor) else value.clone()


class GradientTrainer(DistillTrainer):
    """Records how far every parameter moved in a step of plain gradient descent."""

    strategy = "ddp"
    own_optimizer = False
    moved: dict[str, torch.Tensor]

    def create_accelerator_and_postprocess(self) -> None:
        super().create_accelerator_and_postprocess()
        if self.strategy == "fsdp2":
            from accelerate import PartialState
            from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin

            plugin = FullyShardedDataParallelPlugin(
                fsdp_version=2, auto_wrap_policy="transformer_based_wrap", state_dict_type="FULL_STATE_DICT"
            )
            # accelerate offers FSDP to accelerators only; gloo and the CPU can do it too
            PartialState._shared_state["distributed_type"] = DistributedType.FSDP
            self.accelerator.state.distributed_type = DistributedType.FSDP
            self.accelerator.state.fsdp_plugin = plugin
            self.is_fsdp_enabled = True

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        if self.own_optimizer:
            return super().create_optimizer(model)
        self.before = {name: whole(p) for name, p in self.model.named_parameters()}
        trainable = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.SGD(trainable, lr=1.0)
        return self.optimizer

    def train(self, *args: Any, **kwargs: Any) -> Any:
        result = super().train(*args, **kwargs)
        if self.own_optimizer:
            return result
        type(self).moved = {name: self.before[name] - whole(p) for name, p in self.model.named_parameters()}
        return result


def gradients(settings: dict[str, Any], directory: Path) -> dict[str, torch.Tensor]:
    """Gradients of every parameter, of the student and of objectives, in one step; files go to ``directory``."""
    dtype = getattr(torch, settings.get("dtype", "float64"))
    student_dir = Path(settings["student_dir"])
    load = training.load_student
    training.load_student = lambda path, config, task: load(path, config, task).to(dtype)  # type: ignore[assignment]
    training.DistillTrainer = GradientTrainer  # type: ignore[misc]
    GradientTrainer.strategy = settings.get("strategy", "ddp")
    teacher = tiny_teacher()
    teacher.model.to(dtype)
    peft = None if settings.get("peft") is None else PeftSection(**settings["peft"])
    try:
        run_training(
            directory,
            student_dir=student_dir,
            data=TokenDataset.open(settings["data"]),
            teacher=teacher,
            student=StudentConfig(init=InitConfig(model=str(student_dir)), peft=peft),
            config={
                "max_steps": 1,
                "learning_rate": 1.0,
                "max_grad_norm": 1e9,
                "objectives": objectives(*settings["objectives"]),
                **settings["config"],
            },
        )
    finally:
        training.load_student = load
        training.DistillTrainer = DistillTrainer  # type: ignore[misc]
    return GradientTrainer.moved


def train_or_crash(settings: dict[str, Any], directory: Path) -> None:
    """A training with the Trainer's own optimizer; the main process dies after step ``crash_after``."""

    def on_step(step: int, metrics: dict[str, Any]) -> None:
        if step == settings.get("crash_after"):
            os.kill(os.getpid(), signal.SIGKILL)

    GradientTrainer.strategy, GradientTrainer.own_optimizer = settings["strategy"], True
    training.DistillTrainer = GradientTrainer  # type: ignore[misc]
    run_training(
        directory,
        student_dir=Path(settings["student_dir"]),
        data=TokenDataset.open(settings["data"]),
        teacher=tiny_teacher(),
        config={"objectives": objectives(*settings["objectives"]), **settings["config"]},
        on_step=on_step,
    )


def main() -> None:
    torch.set_num_threads(1)
    settings = json.loads(Path(sys.argv[1]).read_text())
    directory = Path(settings["directory"])
    if settings.get("whole_training"):
        train_or_crash(settings, directory)
        return
    found = gradients(settings, directory)
    if int(os.environ.get("RANK", "0")) == 0:
        torch.save(found, directory / "gradients.pt")


if __name__ == "__main__":
    main()
