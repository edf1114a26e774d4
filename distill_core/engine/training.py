"""``train``: from an initial student to a trained one, resumable at any moment.

Output of a training, all under one directory: ``model/`` (a normal Transformers directory with tokenizer),
``metrics.jsonl`` (one line per optimizer step), ``checkpoints/``; ``adapter/`` for a LoRA student, whose adapters are
merged into ``model/``; ``objectives/`` for parameters of objectives that ask to be exported.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments, set_seed

from distill_core.config import StudentConfig, TrainConfig
from distill_core.engine import checkpoints
from distill_core.engine.classifier import install_classifier_head
from distill_core.engine.companions import Companions
from distill_core.engine.data import TokenDataset
from distill_core.engine.export import base_model, export_student
from distill_core.engine.head import fused_head, install_fused_head
from distill_core.engine.metrics_file import MetricsFile
from distill_core.engine.microbatches import MicroBatches, steps_of
from distill_core.engine.objectives import ATTACHED_NAME, ObjectiveSet
from distill_core.engine.progress import Progress
from distill_core.engine.recording import Recording
from distill_core.engine.sources import OWN, Sources
from distill_core.engine.sparsity import Sparsity
from distill_core.engine.student import load_student, without_progress_bars
from distill_core.engine.tasks import with_labels
from distill_core.engine.trainer import DistillTrainer, HeldOut
from distill_core.engine.vocabulary import chosen_policy, with_vocabulary
from distill_core.errors import TrainingError
from distill_core.interfaces import BuildContext, Sampler, Task, Teacher
from distill_core.types import TokenBatch


@dataclass(frozen=True)
class TrainResult:
    """What a training left.

    Args:
        model: directory of the trained student.
        metrics: path of ``metrics.jsonl``.
        steps: optimizer steps of the whole run.
        loss: loss of the last step.
        resumed_from_step: 0 for a fresh start.
        vocabulary: what was done about the two vocabularies; None without a teacher.
    """

    model: Path
    metrics: Path
    steps: int
    loss: float
    resumed_from_step: int
    vocabulary: str | None = None


def train(
    *,
    student_dir: Path,
    student: StudentConfig,
    tokenizer: Any,
    train_data: TokenDataset,
    eval_data: TokenDataset | None,
    config: TrainConfig,
    teacher: Teacher | None,
    directory: Path,
    seed: int,
    registry: Any,
    progress: Progress,
    on_step: Callable[[int, dict[str, Any]], None] | None = None,
    eval_teacher: Teacher | None = None,
    teacher_tokenizer: Any = None,
    named_teachers: Mapping[str, Teacher] | None = None,
    named_eval_teachers: Mapping[str, Teacher] | None = None,
    task: Task | None = None,
) -> TrainResult:
    """Train a student; the same call again resumes at the last whole checkpoint, with bit-identical losses.

    Under ``torchrun`` or ``accelerate launch`` every process makes the same call.

    Args:
        student_dir: the initial student (:func:`distill_core.engine.student.initialise_student`).
        student: its section of the run file (dtype, LoRA).
        tokenizer: saved beside the trained model; None where a task reads no text.
        train_data: training sequences.
        eval_data: held-out sequences for ``config.eval_steps``; None: none.
        config: the ``train`` section.
        teacher: stored or live; None where no objective needs one.
        directory: where everything is written.
        seed: of data order, random weights and dropout.
        registry: builds objectives and schedules by name.
        progress: shows the bar.
        on_step: told ``(step, metrics)`` after each step, in the main process.
        eval_teacher: answers for held-out batches; default: ``teacher``.
        teacher_tokenizer: read by ``vocabulary: truncate`` where the teacher (a store) brings none.
        named_teachers: further ones, by the ``source`` that objectives name.
        named_eval_teachers: the same for held-out batches; default: ``named_teachers``.
        task: what the student predicts; None: the next token.

    Raises:
        TrainingError: an unsupported head, values that are not finite, a checkpoint of another run.
    """
    set_seed(seed)
    directory.mkdir(parents=True, exist_ok=True)
    arguments = _arguments(config, directory, seed)
    per_step = config.batch_sequences * config.accumulation_steps * arguments.world_size
    arguments.max_steps = total_steps = steps_of(
        max_steps=config.max_steps, epochs=config.epochs, sequences=len(train_data), sequences_per_step=per_step
    )
    main = arguments.process_index == 0
    progress = progress if main else Progress(quiet=True)
    model = load_student(student_dir, student, task)
    objectives = _prepare(model, config, registry, None if task is None else _some(train_data, tokenizer))
    rollout = None if config.rollout is None else registry.build("rollout", config.rollout)
    sampler = None if config.order is None else registry.build("sampler", config.order)
    named = dict(named_teachers or {})
    companions = Companions({"teacher": teacher, **named, "rollout": rollout, "sampler": sampler})
    context = BuildContext(
        student=base_model(model),
        teacher_config=Sources(teacher).config(OWN),
        total_steps=total_steps,
        seed=seed,
        build=lambda kind, reference: registry.build(kind, reference),
        tokenizer=tokenizer,
        teacher=teacher if config.teacher == "live" else None,
        directory=directory,
        rank=arguments.process_index,
        world_size=arguments.world_size,
        data=train_data,
        rollout=rollout,
    )
    companions.build(context)
    _build_objectives(model, objectives, context, Sources(teacher, named))
    rows = int(fused_head(base_model(model)).weight.shape[0])
    policy = chosen_policy(config.vocabulary, registry)

    def reads(one: Teacher, known_tokenizer: Any = None) -> tuple[Teacher, str]:
        if task is not None:
            return with_labels(one, task, tokenizer)
        return with_vocabulary(one, tokenizer, student_rows=rows, policy=policy, teacher_tokenizer=known_tokenizer)

    sources, vocabulary = Sources(teacher, named).understood(
        objectives.sources, lambda one: reads(one, teacher_tokenizer if one is teacher else None)
    )
    if vocabulary is not None:
        progress.say(vocabulary)
    sparsity = Sparsity(config.sparse, registry=registry, total_steps=total_steps, seed=seed)
    if config.teacher == "live":
        sizes = [one.vocabulary().size for one in sources.teachers.values()]
        sparsity.check(min(sizes, default=None))
    held_out_named = named if named_eval_teachers is None else named_eval_teachers
    held_out_sources, _ = Sources(eval_teacher or teacher, held_out_named).understood(objectives.sources, reads)
    identity = _identity(config, student, seed, per_step, total_steps, train_data)
    root = directory / "checkpoints"
    root.mkdir(exist_ok=True)
    resume = _resume(root, identity, progress)
    steps_done = 0 if resume is None else resume.step
    metrics = MetricsFile(directory / "metrics.jsonl")
    if main:
        metrics.keep_until(steps_done)
    tokens = round((total_steps - steps_done) * per_step * train_data.n_tokens / len(train_data))
    with progress.task("training", tokens) as shown, without_progress_bars():
        trainer = DistillTrainer(
            model,
            arguments,
            micro_batches=_micro_batches(config, train_data, arguments, tokenizer, sampler),
            objectives=objectives,
            sources=sources,
            sparse=sparsity,
            recording=Recording(
                metrics=metrics,
                progress=shown,
                checkpoint_root=root,
                keep_checkpoints=config.keep_checkpoints,
                identity=identity,
                track_every_steps=config.log_steps if config.trackers else None,
                on_step=on_step,
            ),
            held_out=_held_out(config, eval_data, held_out_sources, tokenizer),
            chunk_rows=config.chunk_rows,
            rollout=rollout,
            companions=companions,
        )
        trainer.train(resume_from_checkpoint=None if resume is None else str(resume.path))
        export_student(trainer, objectives, tokenizer, directory)
    lines = metrics.read()
    loss = float(lines[-1]["loss"]) if lines else float("nan")
    return TrainResult(directory / "model", metrics.path, total_steps, loss, steps_done, vocabulary)


def _micro_batches(
    config: TrainConfig, data: TokenDataset, arguments: TrainingArguments, tokenizer: Any, sampler: Sampler | None
) -> MicroBatches:
    return MicroBatches(
        data,
        batch_sequences=config.batch_sequences,
        accumulation_steps=config.accumulation_steps,
        total_steps=arguments.max_steps,
        seed=arguments.seed,
        rank=arguments.process_index,
        world_size=arguments.world_size,
        pad_id=_pad_id(tokenizer),
        sampler=sampler,
    )


def _held_out(config: TrainConfig, data: TokenDataset | None, sources: Sources, tokenizer: Any) -> HeldOut | None:
    """The first sequences of the held-out set, in batches, if they are looked at while training."""
    if data is None or len(data) == 0 or config.eval_steps is None:
        return None
    chosen = range(min(len(data), config.eval_sequences))
    batches = list(data.batches(config.batch_sequences, chosen, pad_id=_pad_id(tokenizer)))
    return HeldOut(batches, sources, config.eval_steps)


def _pad_id(tokenizer: Any) -> int:
    """Any id does: padding has no influence."""
    return getattr(tokenizer, "pad_token_id", None) or 0


PROBE_SEQUENCES = 4
"""Sequences of the data that a classifier's head is tried on."""


def _some(data: TokenDataset, tokenizer: Any) -> TokenBatch | None:
    if len(data) == 0:
        raise TrainingError("there are no training sequences; look at data.train in the run file")
    return next(data.batches(PROBE_SEQUENCES, range(min(len(data), PROBE_SEQUENCES)), pad_id=_pad_id(tokenizer)))


def _prepare(model: Any, config: TrainConfig, registry: Any, labelled: TokenBatch | None) -> ObjectiveSet:
    """The objectives of the run file, not yet built; fused head in place, what is frozen frozen.

    ``labelled``: some sequences of a task, None where the next token is predicted.
    """
    base = base_model(model)
    objectives = ObjectiveSet.from_config(config.objectives, registry)
    if objectives.wants("attentions"):
        base.set_attn_implementation("eager")  # the only one that returns them
    if labelled is None:
        install_fused_head(base)
    else:
        install_classifier_head(base, labelled)
    if config.freeze_head:
        fused_head(base).requires_grad_(False)
    if config.gradient_checkpointing:
        if hasattr(base, "activation_checkpointing_enable"):  # its name in later versions of Transformers
            base.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
        else:
            base.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        if base is not model:
            base.enable_input_require_grads()
    return objectives


def _build_objectives(model: Any, objectives: ObjectiveSet, context: BuildContext, sources: Sources) -> None:
    """Objective modules ride on the model."""
    objectives.build(context, sources.config)
    modules = objectives.modules()
    if modules is not None:
        setattr(model, ATTACHED_NAME, modules)


def _arguments(config: TrainConfig, directory: Path, seed: int) -> TrainingArguments:
    """Transformers' arguments for the ``train`` section; device and precision chosen so that it just runs."""
    accelerator = torch.accelerator.is_available()
    precision = config.precision
    if precision == "auto":
        fast_bfloat16 = torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
        precision = "bfloat16" if fast_bfloat16 else "float32"
    if precision == "float16" and not accelerator:
        raise TrainingError("train.precision is float16, which a CPU cannot train in: use float32 or bfloat16")
    return TrainingArguments(
        output_dir=str(directory / "checkpoints"),
        max_steps=1,  # set when the number of processes is known
        per_device_train_batch_size=config.batch_sequences,
        gradient_accumulation_steps=config.accumulation_steps,
        learning_rate=config.learning_rate,
        lr_scheduler_type={"constant": "constant_with_warmup"}.get(config.lr_schedule, config.lr_schedule),
        warmup_steps=config.warmup_steps,
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        bf16=precision == "bfloat16",
        fp16=precision == "float16",
        use_cpu=not accelerator,
        seed=seed,
        data_seed=seed,
        logging_strategy="steps",
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="steps",
        save_steps=config.save_steps,
        report_to=list(config.trackers) or "none",
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        log_level="error",
    )


def _identity(
    config: TrainConfig, student: StudentConfig, seed: int, per_step: int, total_steps: int, data: TokenDataset
) -> dict[str, Any]:
    """What decides the numbers of a run: a checkpoint of anything else is not resumed."""
    bystanders = {"save_steps", "keep_checkpoints", "log_steps", "eval_steps", "eval_sequences", "trackers"}
    split = {"batch_sequences", "accumulation_steps", "epochs", "max_steps"}
    hasher = hashlib.sha256()
    for sequence in data:
        hasher.update(sequence.key)
        hasher.update(sequence.labels.tobytes())
        if sequence.weights is not None:
            hasher.update(sequence.weights.tobytes())
    return {
        "train": config.model_dump(mode="json", exclude=bystanders | split),
        "student": student.model_dump(mode="json"),
        "seed": seed,
        "sequences_per_step": per_step,
        "steps": total_steps,
        "data": hasher.hexdigest(),
    }


def _resume(root: Path, identity: Mapping[str, Any], progress: Progress) -> checkpoints.Checkpoint | None:
    """The newest whole checkpoint, if it is of this run."""
    found, passed_over = checkpoints.last_whole(root)
    for sentence in passed_over:
        progress.say(sentence)
    if found is None:
        return None
    changed = sorted(key for key in identity if found.identity.get(key) != identity[key])
    if changed:
        raise TrainingError(
            f"{found.path} is of another training: {', '.join(changed)} changed since. Delete {root} to start afresh, "
            "or train into another directory"
        )
    progress.say(f"resuming at step {found.step} ({found.path.name})")
    return found
