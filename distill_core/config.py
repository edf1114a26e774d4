"""The run file: pydantic models, no torch.

A run file names components by registered name with their options inline: ``{use: forward-kl, temperature: 2.0}``.
Nothing in it is executed and no dotted path is accepted.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from distill_core.options import ScheduleRef


class Section(BaseModel):
    """Base of every section: unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ComponentRef(BaseModel):
    """A component by registered name, its options inline."""

    model_config = ConfigDict(extra="allow", frozen=True)

    use: str = Field(description="registered name, bare or `plugin:name`")

    @property
    def options(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


class ObjectiveRef(ComponentRef):
    """An objective with its place in the sum."""

    name: str | None = Field(default=None, description="name in logs; default: the component's name")
    weight: NonNegativeFloat | ScheduleRef = Field(default=1.0, description="factor in the total loss, or a schedule")


class SplitConfig(Section):
    """Where records come from and which of them stay."""

    source: ComponentRef
    filters: list[ComponentRef] = Field(default_factory=list)
    limit_sequences: PositiveInt | None = Field(default=None, description="keep the first so many sequences")


class DataConfig(Section):
    train: SplitConfig
    eval: SplitConfig
    sequence_length_tokens: PositiveInt = Field(default=256, description="longest sequence; longer documents are cut")
    min_sequence_tokens: PositiveInt = Field(default=16, description="shorter remainders are dropped")
    overlong: Literal["cut", "error"] = Field(
        default="cut", description="records longer than a sequence: cut into several (text) or refuse"
    )
    add_bos: bool = Field(default=False, description="start every sequence with the tokenizer's BOS")


class FromTeacher(Section):
    layers: list[NonNegativeInt] = Field(min_length=1, description="teacher layers to keep, in order, from 0")


class InitConfig(Section):
    """Exactly one of the three."""

    from_teacher: FromTeacher | None = None
    model: str | None = Field(default=None, description="model id or directory")
    config: dict[str, Any] | None = Field(default=None, description="a Transformers config (with model_type)")


class PeftSection(Section):
    """LoRA adapters on the student (needs `pip install distill-core[peft]`)."""

    r: PositiveInt = 8
    alpha: PositiveFloat = 16.0
    dropout: float = Field(default=0.0, ge=0, lt=1)
    target_modules: list[str] | Literal["all-linear"] = "all-linear"


class StudentConfig(Section):
    init: InitConfig
    tokenizer: str | None = Field(default=None, description="tokenizer id or directory; default: the model's own")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    trust_remote_code: bool = False
    peft: PeftSection | None = None


class CaptureConfig(Section):
    """One store of teacher signals."""

    name: str = Field(default="main", pattern=r"^[a-z0-9][a-z0-9_-]*$")
    method: Literal["topk", "threshold", "multinomial"] = "threshold"
    k: PositiveInt = 12
    temperatures: list[PositiveFloat] = Field(default_factory=lambda: [1.0], min_length=1)
    draws: PositiveInt = 1
    teachers: list[str] | None = Field(default=None, description="names of teachers captured together")
    joint: bool = Field(default=False, description="record every teacher on the union of supports")
    batch_tokens: PositiveInt = Field(default=4096, description="tokens per teacher forward pass")
    shard_sequences: PositiveInt = Field(default=64, description="sequences per shard; an interruption loses one shard")


class TrainConfig(Section):
    """A training; `compare` entries override fields of it, everything else stays equal."""

    teacher: Literal["store", "live", "none"] = "store"
    store: str = Field(default="main", description="name of the capture to read when teacher: store")
    vocabulary: Literal["error", "truncate", "align"] = Field(
        default="error", description="what to do when teacher and student vocabularies differ"
    )
    sparse: CaptureConfig | None = Field(default=None, description="sparsity of a live teacher; default: topk 64")
    objectives: list[ObjectiveRef] = Field(default_factory=lambda: [ObjectiveRef(use="forward-kl")], min_length=1)
    max_steps: PositiveInt | None = Field(default=None, description="optimizer steps; default: from epochs")
    epochs: PositiveFloat = 1.0
    batch_sequences: PositiveInt = Field(default=8, description="sequences per device and micro-batch")
    accumulation_steps: PositiveInt = 1
    learning_rate: PositiveFloat = 1e-4
    lr_schedule: Literal["constant", "linear", "cosine"] = "cosine"
    warmup_steps: NonNegativeInt = 0
    weight_decay: NonNegativeFloat = 0.0
    max_grad_norm: PositiveFloat = 1.0
    gradient_checkpointing: bool = False
    precision: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        default="auto", description="auto: bfloat16 autocast on devices with fast bfloat16, float32 on a CPU"
    )
    chunk_rows: PositiveInt | None = Field(default=None, description="rows per pass over the head")
    save_steps: PositiveInt = 50
    keep_checkpoints: PositiveInt = 2
    log_steps: PositiveInt = 1
    eval_steps: PositiveInt | None = Field(default=None, description="held-out loss every so many steps")
    eval_sequences: PositiveInt = Field(default=16, description="sequences of the held-out set used while training")
    freeze_head: bool = False
    trackers: list[Literal["tensorboard"]] = Field(default_factory=list)


class TrainOverrides(Section):
    """Fields of a training that differ from `train`."""

    teacher: Literal["store", "live", "none"] | None = None
    store: str | None = None
    objectives: list[ObjectiveRef] | None = Field(default=None, min_length=1)
    learning_rate: PositiveFloat | None = None


class EvaluateConfig(Section):
    evaluators: list[ComponentRef] = Field(
        default_factory=lambda: [ComponentRef(use="language-model"), ComponentRef(use="fidelity")], min_length=1
    )
    batch_sequences: PositiveInt = 8
    limit_sequences: PositiveInt | None = None
    confidence: float = Field(default=0.95, gt=0.5, lt=1)


class ReportConfig(Section):
    title: str | None = None
    prompts: list[str] = Field(default_factory=list, description="prompts for the sample generations")
    max_new_tokens: PositiveInt = 40


class RunConfig(Section):
    """A whole run."""

    version: Literal[1] = 1
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    seed: NonNegativeInt = 0
    output_dir: str = Field(description="where stages write, relative to the present directory")
    teacher: ComponentRef | None = None
    teachers: dict[str, ComponentRef] | None = None
    data: DataConfig
    student: StudentConfig
    capture: CaptureConfig | list[CaptureConfig] | None = None
    train: TrainConfig = Field(default_factory=TrainConfig)
    compare: dict[str, TrainOverrides] = Field(
        default_factory=dict, description="further students, equal but for what is named: the baselines"
    )
    evaluate: EvaluateConfig = Field(default_factory=EvaluateConfig)
    report: ReportConfig = Field(default_factory=ReportConfig)

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
            changed = {field: getattr(overrides, field) for field in overrides.model_fields_set}
            result[name] = self.train.model_copy(update=changed)
        return result
