"""The run file: pydantic models, no torch.

A run file names components by registered name with their options inline: ``{use: forward-kl, temperature: 2.0}``.
Nothing in it is executed and no dotted path is accepted.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from distill_core.config.sections import ComponentRef, Name, ObjectiveRef, Section, VocabularyPolicy
from distill_core.config.selection import ActiveConfig, BudgetConfig, SelectConfig
from distill_core.config.student import FromTeacher, InitConfig, PeftSection, StudentConfig, Width
from distill_core.options import ModelSource, ScheduleRef

__all__ = [
    "ActiveConfig",
    "BudgetConfig",
    "CaptureConfig",
    "ComponentRef",
    "DataConfig",
    "EvaluateConfig",
    "FromTeacher",
    "InitConfig",
    "Name",
    "ObjectiveRef",
    "PeftSection",
    "ReportConfig",
    "RunConfig",
    "Section",
    "SelectConfig",
    "SparseConfig",
    "SplitConfig",
    "StudentConfig",
    "TrainConfig",
    "TrainOverrides",
    "UpdateConfig",
    "VocabularyPolicy",
    "Width",
]


class SplitConfig(Section):
    """Where records come from and which of them stay."""

    source: ComponentRef = Field(description="where records come from")
    filters: list[ComponentRef] = Field(default_factory=list, description="which records stay; applied in order")
    transforms: list[ComponentRef] = Field(
        default_factory=list, description="what the kept records become, e.g. tasks of a rationale; applied in order"
    )
    limit_sequences: PositiveInt | None = Field(default=None, description="keep the first so many sequences")
    document_sequences: PositiveInt | None = Field(
        default=None, description="keep the first so many sequences of each document, to spread a limit over documents"
    )
    keep: list[str] = Field(
        default_factory=list,
        description="fields of a record that stay with its sequences, for objectives that read them (attention)",
    )


class DataConfig(Section):
    train: SplitConfig = Field(description="what is trained on")
    eval: SplitConfig = Field(description="what is judged on; choose it apart from the training data")
    target: SplitConfig | None = Field(
        default=None,
        description="examples of what the student shall be good at, for selectors that aim at them; apart from eval",
    )
    sequence_length_tokens: int = Field(default=256, ge=2, description="longest sequence; longer documents are cut")
    min_sequence_tokens: PositiveInt = Field(default=16, description="shorter remainders are dropped")
    overlong: Literal["cut", "error"] = Field(
        default="cut", description="records longer than a sequence: cut into several (text) or refuse"
    )
    add_bos: bool = Field(default=False, description="start every sequence with the tokenizer's BOS")

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits that are prepared."""
        return ("train", "eval") if self.target is None else ("train", "eval", "target")


class UpdateConfig(Section):
    """Labels of an older revision of the teacher, of which only what moved is captured anew."""

    base: str = Field(description="directory of the store to bring up to date; it is left as it is")
    bound_nat: NonNegativeFloat = Field(
        default=0.02, description="rows whose KL(new || old) on the old support is larger are labelled anew, nat"
    )
    probe_share: float = Field(
        default=1.0, ge=0, le=1, description="share of the sequences the new teacher is asked about; others keep labels"
    )


class CaptureConfig(Section):
    """One store of teacher signals."""

    name: str = Field(default="main", pattern=r"^[a-z0-9][a-z0-9_-]*$", description="name of the store")
    method: Literal["topk", "threshold", "multinomial"] = Field(
        default="threshold", description="topk: exact; threshold, multinomial: sampled"
    )
    k: PositiveInt = Field(default=12, description="entries kept per token")
    temperatures: list[PositiveFloat] = Field(
        default_factory=lambda: [1.0],
        min_length=1,
        description="at which tails are kept (topk); exactly one for sampled methods",
    )
    draws: PositiveInt = Field(default=1, description="independent samples stored per token (sampled methods)")
    teachers: list[str] | None = Field(default=None, description="names of teachers captured together")
    joint: bool = Field(default=False, description="record every teacher on the union of supports")
    batch_tokens: PositiveInt = Field(default=4096, description="tokens per teacher forward pass")
    shard_sequences: PositiveInt = Field(default=64, description="sequences per shard; an interruption loses one shard")
    update: UpdateConfig | None = Field(
        default=None, description="an older store, of which only what moved is captured"
    )
    known: list[str] = Field(
        default_factory=list,
        description="directories of earlier stores of this form: what they hold is copied, and the teacher not asked",
    )


class SparseConfig(Section):
    """How a live teacher's answer is made sparse."""

    method: Literal["topk", "threshold", "multinomial"] = Field(
        default="threshold", description="topk: exact; threshold, multinomial: sampled"
    )
    k: PositiveInt | ScheduleRef = Field(
        default=12, description="entries per token, or a schedule of them (rounded to whole entries)"
    )
    temperatures: list[PositiveFloat] = Field(
        default_factory=lambda: [1.0],
        min_length=1,
        description="at which a sample is drawn: exactly one (sampled methods); topk answers at what objectives read",
    )


class TrainConfig(Section):
    """A training; `compare` entries override fields of it, everything else stays equal."""

    teacher: Literal["store", "live", "none"] = Field(
        default="store",
        description="store: signals captured before; live: the teacher answers in each step; none: no teacher",
    )
    store: str = Field(default="main", description="name of the capture to read when teacher: store")
    vocabulary: VocabularyPolicy = Field(
        default="error",
        description="what to do when teacher and student vocabularies differ: refuse, keep the common ids, or "
        "`{use: <aligner>}`",
    )
    sparse: SparseConfig | None = Field(default=None, description="sparsity of a live teacher; default: topk 64")
    aggregate: ComponentRef | None = Field(
        default=None, description="how the distributions of several teachers (live, or a joint capture) become one"
    )
    rollout: ComponentRef | None = Field(
        default=None, description="who writes the sequences of a step, e.g. the student; default: the data's own"
    )
    order: ComponentRef | None = Field(
        default=None,
        description="which sequence comes when, e.g. easy ones first; default: one random permutation after another",
    )
    objectives: list[ObjectiveRef] = Field(
        default_factory=lambda: [ObjectiveRef(use="forward-kl")],
        min_length=1,
        description="what is minimised: their weighted sum",
    )
    learns_from: Literal["selected", "all"] = Field(
        default="selected", description="what `select` kept, or the whole pool (without a store); all alike without it"
    )
    max_steps: PositiveInt | None = Field(default=None, description="optimizer steps; default: from epochs")
    epochs: PositiveFloat = Field(default=1.0, description="passes over the training data")
    batch_sequences: PositiveInt = Field(default=8, description="sequences per device and micro-batch")
    accumulation_steps: PositiveInt = Field(default=1, description="micro-batches per optimizer step")
    learning_rate: PositiveFloat = Field(default=1e-4, description="highest learning rate of the schedule")
    lr_schedule: Literal["constant", "linear", "cosine"] = Field(
        default="cosine", description="how the learning rate falls after the warm-up"
    )
    warmup_steps: NonNegativeInt = Field(default=0, description="optimizer steps of linear warm-up")
    weight_decay: NonNegativeFloat = Field(default=0.0, description="decoupled weight decay of AdamW")
    max_grad_norm: PositiveFloat = Field(default=1.0, description="gradients are scaled down to this norm")
    gradient_checkpointing: bool = Field(
        default=False, description="compute activations again in the backward pass: less memory, more time"
    )
    precision: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        default="auto", description="auto: bfloat16 autocast on devices with fast bfloat16, float32 on a CPU"
    )
    chunk_rows: PositiveInt | None = Field(default=None, description="rows per pass over the head")
    save_steps: PositiveInt = Field(default=50, description="optimizer steps between checkpoints")
    keep_checkpoints: PositiveInt = Field(default=2, description="checkpoints kept; older ones are removed")
    log_steps: PositiveInt = Field(default=1, description="optimizer steps between lines of metrics.jsonl")
    eval_steps: PositiveInt | None = Field(default=None, description="held-out loss every so many steps")
    eval_sequences: PositiveInt = Field(default=16, description="sequences of the held-out set used while training")
    freeze_head: bool = Field(default=False, description="do not train the output head")
    trackers: list[Literal["tensorboard"]] = Field(
        default_factory=list, description="further places that metrics go to"
    )

    @property
    def sources_read(self) -> tuple[str, ...]:
        """Captures (or live teachers) that objectives name, and the capture of the training itself."""
        named = [objective.source for objective in self.objectives if objective.source is not None]
        own = [self.store] if self.teacher == "store" and len(named) < len(self.objectives) else []
        return tuple(dict.fromkeys([*own, *named]))


class TrainOverrides(Section):
    """Fields of a training that differ from `train`."""

    teacher: Literal["store", "live", "none"] | None = Field(default=None, description="as in train")
    store: str | None = Field(default=None, description="as in train")
    vocabulary: VocabularyPolicy | None = Field(default=None, description="as in train")
    sparse: SparseConfig | None = Field(default=None, description="as in train; null: the default")
    aggregate: ComponentRef | None = Field(default=None, description="as in train; null: none")
    rollout: ComponentRef | None = Field(default=None, description="as in train; null: the data's own sequences")
    order: ComponentRef | None = Field(default=None, description="as in train; null: random permutations")
    objectives: list[ObjectiveRef] | None = Field(default=None, min_length=1, description="as in train")
    learns_from: Literal["selected", "all"] | None = Field(default=None, description="as in train")
    learning_rate: PositiveFloat | None = Field(default=None, description="as in train")


TEXT_EVALUATORS = ("language-model", "fidelity", "calibration")
"""What is measured of language models if the run file does not say."""


class EvaluateConfig(Section):
    """How students are judged."""

    evaluators: list[ComponentRef] = Field(
        default_factory=lambda: [ComponentRef(use=name) for name in TEXT_EVALUATORS],
        min_length=1,
        description="what is measured; with a task: classification, fidelity and calibration",
    )
    batch_sequences: PositiveInt = Field(default=8, description="sequences per forward pass")
    limit_sequences: PositiveInt | None = Field(default=None, description="judge on the first so many sequences only")
    confidence: float = Field(default=0.95, gt=0.5, lt=1, description="level of the confidence intervals")
    models: dict[Name, ModelSource] = Field(
        default_factory=dict, description="finished models that are judged beside the run's own, by name"
    )


class ReportConfig(Section):
    """The page at the end."""

    title: str | None = Field(default=None, description="heading; default: the run's name")
    prompts: list[str] = Field(default_factory=list, description="prompts for the sample generations")
    max_new_tokens: PositiveInt = Field(default=40, description="length of the sample generations, in tokens")


TASK_EVALUATORS = ("classification", "fidelity", "calibration")
"""What is measured of classifiers if the run file does not say."""


class RunConfig(Section):
    """A whole run."""

    version: Literal[1] = Field(default=1, description="version of this format")
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="name of the run")
    seed: NonNegativeInt = Field(default=0, description="seed of everything random")
    output_dir: str = Field(description="where stages write, relative to the present directory")
    teacher: ComponentRef | None = Field(default=None, description="the model that is learned from")
    teachers: dict[Name, ComponentRef] | None = Field(default=None, description="several teachers by name")
    task: ComponentRef | None = Field(
        default=None, description="what is predicted, e.g. the class of a sequence; default: the next token"
    )
    data: DataConfig = Field(description="texts and how they are cut")
    student: StudentConfig = Field(description="the model that learns")
    synthesize: ComponentRef | None = Field(
        default=None, description="a synthesizer that makes the training records from those of data.train.source"
    )
    select: SelectConfig | None = Field(
        default=None, description="which of the prepared training sequences are learned from; default: all"
    )
    active: ActiveConfig | None = Field(
        default=None, description="repeat selection, capture and training while it pays; default: one round"
    )
    capture: CaptureConfig | list[CaptureConfig] | None = Field(default=None, description="stores of teacher signals")
    train: TrainConfig = Field(default_factory=TrainConfig, description="the training of the student")
    compare: dict[Name, TrainOverrides] = Field(
        default_factory=dict, description="further students, equal but for what is named: the baselines"
    )
    evaluate: EvaluateConfig = Field(default_factory=EvaluateConfig, description="how students are judged")
    report: ReportConfig = Field(default_factory=ReportConfig, description="the page at the end")

    @model_validator(mode="before")
    @classmethod
    def _measured_as_the_task_asks(cls, given: Any) -> Any:
        """The default evaluators are those of language models, or of classifiers where there is a task."""
        if not isinstance(given, dict) or given.get("task") is None:
            return given
        section = given.get("evaluate") or {}
        if not isinstance(section, dict) or section.get("evaluators") is not None:
            return given
        evaluators = [{"use": name} for name in TASK_EVALUATORS]
        return {**given, "evaluate": {**section, "evaluators": evaluators}}

    @property
    def all_teachers(self) -> dict[str, ComponentRef]:
        """Teachers by name; the one of `teacher:` is called `teacher`."""
        single = {} if self.teacher is None else {"teacher": self.teacher}
        return {**single, **(self.teachers or {})}

    @property
    def captures(self) -> tuple[CaptureConfig, ...]:
        """All captures, in order."""
        if self.capture is None:
            return ()
        return tuple(self.capture) if isinstance(self.capture, list) else (self.capture,)

    def trainings(self) -> dict[str, TrainConfig]:
        """All trainings by name; the first is `student`, the rest are `compare`."""
        result = {"student": self.train}
        for name, overrides in self.compare.items():
            given = {field: getattr(overrides, field) for field in overrides.model_fields_set}
            may_be_null = ("sparse", "rollout", "aggregate", "order")
            changed = {name: value for name, value in given.items() if value is not None or name in may_be_null}
            result[name] = self.train.model_copy(update=changed)
        return result
