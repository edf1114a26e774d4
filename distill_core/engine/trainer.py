"""``DistillTrainer``: a ``transformers.Trainer`` whose loss runs inside the model's own head.

Accelerate, DDP, FSDP, DeepSpeed, PEFT, mixed precision, schedules and checkpoints are the Trainer's; what is added:
denominators before the first backward, teacher signals per micro-batch, checks that stop on values that are not
finite, whole checkpoints, one line of ``metrics.jsonl`` per step.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import PrinterCallback, ProgressCallback, TrainerCallback, TrainingArguments

from distill_core.engine.companions import Companions
from distill_core.engine.microbatches import MicroBatches
from distill_core.engine.objectives import ATTACHED_NAME, ObjectiveSet
from distill_core.engine.recording import Recording
from distill_core.engine.sources import Sources
from distill_core.engine.whole_checkpoints import WholeCheckpoints
from distill_core.errors import TrainingError
from distill_core.interfaces import Rollout
from distill_core.types import SparseSpec, TokenBatch


@dataclass
class StepTotals:
    """Sums of one optimizer step, in this process until they are reduced.

    Args:
        sums: float64, one per objective.
        counts: denominators over all micro-batches and processes.
        weights: factor of each objective in the loss.
        tokens: tokens over all micro-batches and processes.
        started_s: when its batches were asked for.
        seconds: from then to the end of its last backward.
        reported: what free-form objectives reported, of the last micro-batch of this process.
    """

    sums: Tensor
    counts: list[float]
    weights: list[float]
    tokens: int
    started_s: float
    seconds: float = 0.0
    reported: dict[str, float] = field(default_factory=dict)

    def means(self) -> list[float]:
        return [float(total) / count if count else 0.0 for total, count in zip(self.sums, self.counts, strict=True)]

    def loss(self) -> float:
        return sum(weight * mean for weight, mean in zip(self.weights, self.means(), strict=True))


@dataclass(frozen=True)
class HeldOut:
    """What is evaluated while training.

    Args:
        batches: held-out micro-batches, on the CPU, the same in every process.
        sources: who answers for them.
        every_steps: how often.
    """

    batches: Sequence[TokenBatch]
    sources: Sources
    every_steps: int


class OwnSaveSteps(TrainerCallback):
    """A resumed Trainer would go on saving as often as the run that wrote the checkpoint."""

    def on_train_begin(self, args: TrainingArguments, state: Any, control: Any, **kwargs: Any) -> None:
        state.save_steps = args.save_steps


class DistillTrainer(WholeCheckpoints):
    """Trains a student with a fused head (see :func:`distill_core.engine.head.install_fused_head`).

    Args:
        model: a ``PreTrainedModel`` (or PEFT model of one) with a fused head.
        args: Transformers' arguments; ``max_steps`` is the length of the run.
        micro_batches: what this process sees.
        objectives: built objectives.
        sources: who answers for the training batches.
        sparse: how a live teacher's answer is made sparse, given the temperatures asked for and the step.
        recording: where traces go.
        held_out: what is evaluated while training, or None.
        chunk_rows: rows per chunk of the walk over the head; None: the op decides.
        rollout: makes the sequences of each step from those of the data; None: the data's own.
        companions: what has a state beside the student's.

    Raises:
        TrainingError: a rollout under FSDP, or an objective that FSDP cannot shard.
    """

    def __init__(
        self,
        model: nn.Module,
        args: TrainingArguments,
        *,
        micro_batches: MicroBatches,
        objectives: ObjectiveSet,
        sources: Sources,
        sparse: Callable[[tuple[float, ...], int], SparseSpec],
        recording: Recording,
        held_out: HeldOut | None = None,
        chunk_rows: int | None = None,
        rollout: Rollout | None = None,
        companions: Companions | None = None,
    ) -> None:
        self.micro_batches = micro_batches
        self.objectives = objectives
        self.sources = sources
        self.sparse = sparse
        self.recording = recording
        self.held_out = held_out
        self.chunk_rows = chunk_rows
        self.rollout = rollout
        self.companions = Companions({}) if companions is None else companions
        self._totals: StepTotals
        super().__init__(
            model=model,
            args=args,
            train_dataset=micro_batches,
            compute_loss_func=_scaled_already,
            processing_class=None,
        )
        self.remove_callback(PrinterCallback)
        self.remove_callback(ProgressCallback)
        self.add_callback(OwnSaveSteps())
        if self.is_fsdp_enabled:
            objectives.refuse_plain_parameters()
            if rollout is not None:
                raise TrainingError(
                    "train.rollout writes text with the student, whose weights FSDP has sharded: train with DDP"
                )

    # Data and denominators ----------------------------------------------------------------------------------------

    def get_train_dataloader(self) -> DataLoader[dict[str, Any]]:
        """The micro-batches of this process in order; already split over processes, so accelerate must not.

        Their numbers alone: accelerate asks one ahead, and a sampler may decide only when the step before has ended.
        """
        numbers = [{"index": index} for index in range(len(self.micro_batches))]
        return DataLoader(numbers, batch_size=1, shuffle=False, collate_fn=_only)  # type: ignore[arg-type]

    def get_batch_samples(
        self, epoch_iterator: Iterator[dict[str, Any]], num_batches: int, device: torch.device
    ) -> tuple[list[dict[str, Any]], None]:
        """All micro-batches of an optimizer step, with the factors that make their sums a mean over all processes."""
        started_s = time.perf_counter()
        samples = [next(epoch_iterator) for _ in range(num_batches)]
        batches: list[TokenBatch] = [self.micro_batches[int(sample["index"])]["batch"] for sample in samples]
        if self.rollout is not None:
            batches = self._rolled_out(self.rollout, batches)
        per_batch = [[*self.objectives.counts(batch), float(batch.attention_mask_BT.sum())] for batch in batches]
        local = torch.tensor(per_batch, dtype=torch.float64).sum(dim=0)
        *counts, tokens = self._summed(local).tolist()
        step = self.state.global_step
        weights = self.objectives.weights(step, self.state.max_steps)
        sums = torch.zeros(len(counts), dtype=torch.float64, device=self.args.device)
        self._totals = StepTotals(sums, counts, weights, int(tokens), started_s)
        # DDP and FSDP average gradients over processes; the loss is a sum over them.
        world_size = self.accelerator.num_processes
        factors = tuple(w * world_size / c if c else 0.0 for w, c in zip(weights, counts, strict=True))
        for position, sample in enumerate(samples):
            sample.update(batch=batches[position], factors=factors, last=position == len(samples) - 1)
        return samples, None

    @torch.no_grad()
    def _rolled_out(self, rollout: Rollout, batches: list[TokenBatch]) -> list[TokenBatch]:
        """The micro-batches that the rollout makes of the data's; the student writes in eval mode."""
        model = self.accelerator.unwrap_model(self.model_wrapped)
        was_training = model.training
        model.eval()
        try:
            made = list(rollout.batches(self.state.global_step, batches))
        finally:
            model.train(was_training)
        if len(made) != len(batches):
            raise TrainingError(
                f"the rollout {type(rollout).__name__} made {len(made)} micro-batches of {len(batches)}: a step has as "
                "many as the data gave"
            )
        return made

    def _summed(self, values: Tensor) -> Tensor:
        """Sum over processes."""
        if self.accelerator.num_processes == 1:
            return values
        reduced: Tensor = self.accelerator.reduce(values.to(self.args.device), reduction="sum")
        return reduced

    # Loss ---------------------------------------------------------------------------------------------------------

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """This process's share of the step's loss, times the number of processes."""
        self.sources.choose_draw(self.micro_batches.epoch_of(self.state.global_step))
        output = self._forward(model, inputs["batch"], self.sources, inputs["factors"])
        self._totals.sums += output["sums"]
        return (output["loss"], output) if return_outputs else output["loss"]

    def _forward(
        self, model: nn.Module, batch: TokenBatch, sources: Sources, factors: Sequence[float]
    ) -> dict[str, Tensor]:
        step, total_steps = min(self.state.global_step, self.state.max_steps - 1), self.state.max_steps
        signals = sources.ask(
            batch, self.objectives, sparse=self.sparse, step=step, total_steps=total_steps, device=self.args.device
        )
        on_device = batch.to(self.args.device)
        head_pass = self.objectives.head_pass(
            on_device, signals, factors=factors, step=step, total_steps=total_steps, chunk_rows=self.chunk_rows
        )
        output: dict[str, Tensor] = model(**on_device.model_inputs(), head_pass=head_pass)
        if model.training:
            self._totals.reported.update(head_pass.metrics)
        return output

    def training_step(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
        """Forward and backward of one micro-batch; after the last one the step's sums are known and checked."""
        loss: Tensor = super().training_step(model, inputs, num_items_in_batch)
        if inputs["last"]:
            totals = self._totals
            totals.sums = self._summed(totals.sums).cpu()
            totals.seconds = time.perf_counter() - totals.started_s
            for name, total in zip(self.objectives.names, totals.sums, strict=True):
                if not math.isfinite(total):
                    raise TrainingError(
                        f"step {self.state.global_step + 1}: the sum of objective {name} is {float(total)}; the step "
                        "was not taken. Look at the student's weights (NaN?), lower train.learning_rate, or use "
                        "train.precision: float32"
                    )
        return loss

    def floating_point_ops(self, inputs: Mapping[str, Any]) -> int:
        """The Trainer's estimate, from what the model reads of our batches."""
        return int(super().floating_point_ops(inputs["batch"].model_inputs()))

    # After a step -------------------------------------------------------------------------------------------------

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Called after every step, before its checkpoint: writes the metrics line, evaluates when it is time."""
        if "loss" not in logs:  # the summary at the end of the training
            return
        step, totals = self.state.global_step, self._totals
        if "grad_norm" in logs and not math.isfinite(logs["grad_norm"]) and self.accelerator.scaler is None:
            raise TrainingError(
                f"step {step}: the gradient's norm is {logs['grad_norm']} although the loss is finite; no checkpoint "
                "of this step was written. Lower train.learning_rate or use train.precision: float32"
            )
        line: dict[str, Any] = {
            "step": step,
            "loss": totals.loss(),
            "objectives": dict(zip(self.objectives.names, totals.means(), strict=True)),
            "learning_rate": logs["learning_rate"],
            "grad_norm": logs.get("grad_norm"),
            "tokens": totals.tokens,
            "tokens_per_s": totals.tokens / max(totals.seconds, 1e-9),
        }
        if reported := {**totals.reported, **self.companions.metrics()}:
            line["reported"] = reported
        self.objectives.step_ended(step, self.state.max_steps)
        self.companions.step_ended(step, self.state.max_steps)
        held_out = self.held_out
        if held_out is not None and (step % held_out.every_steps == 0 or step == self.state.max_steps):
            line.update(self.evaluate_held_out(held_out))
        if self.is_world_process_zero():
            self.recording.metrics.append(line)
        self.recording.progress.advance(
            totals.tokens, note=f"step {step}/{self.state.max_steps}  loss {line['loss']:.4f}"
        )
        every = self.recording.track_every_steps
        if every is not None and step % every == 0:
            super().log(_flat(line), start_time)
        if self.recording.on_step is not None and self.is_world_process_zero():
            self.recording.on_step(step, line)

    @torch.no_grad()
    def evaluate_held_out(self, held_out: HeldOut) -> dict[str, Any]:
        """``eval_loss`` and ``eval_objectives``: the same objectives on held-out batches, in every process alike."""
        model = self.model_wrapped
        was_training = model.training
        model.eval()
        counts = [sum(values) for values in zip(*map(self.objectives.counts, held_out.batches), strict=True)]
        sums = torch.zeros(len(counts), dtype=torch.float64)
        for batch in held_out.batches:
            sums += self._forward(model, batch, held_out.sources, [0.0] * len(counts))["sums"].cpu()
        model.train(was_training)
        step = min(self.state.global_step, self.state.max_steps - 1)
        totals = StepTotals(sums, counts, self.objectives.weights(step, self.state.max_steps), 0, 0.0)
        return {
            "eval_loss": totals.loss(),
            "eval_objectives": dict(zip(self.objectives.names, totals.means(), strict=True)),
        }

    def student_state(self) -> dict[str, Tensor] | None:
        """The whole student's weights where they are sharded (every process must call it); None elsewhere."""
        if not self.is_fsdp_enabled:
            return None
        state: dict[str, Tensor] = self.accelerator.get_state_dict(self.model)
        return {name: value for name, value in state.items() if ATTACHED_NAME not in name.split(".")}


def _only(samples: list[dict[str, Any]]) -> dict[str, Any]:
    """The one item of a batch of one."""
    (sample,) = samples
    return sample


def _scaled_already(*args: Any, **kwargs: Any) -> Tensor:
    """Its presence tells the Trainer that the loss is normalised over the step, so it does not divide again."""
    raise AssertionError("DistillTrainer.compute_loss computes the loss")


def _flat(line: Mapping[str, Any]) -> dict[str, float]:
    """``{"objectives": {"kl": 1}}`` as ``{"objectives/kl": 1}``, for trackers."""
    flat: dict[str, float] = {}
    for key, value in line.items():
        if isinstance(value, Mapping):
            flat.update({f"{key}/{name}": float(number) for name, number in value.items()})
        elif value is not None and key != "step":
            flat[key] = float(value)
    return flat
