"""The section ``student``: the model that learns, and what it starts from."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from distill_core.config.sections import Section
from distill_core.options import ModelSource


class Width(Section):
    """How much narrower a student is than its teacher; what is not said stays as wide."""

    hidden_size: PositiveInt | None = Field(default=None, description="hidden channels to keep")
    intermediate_size: PositiveInt | None = Field(default=None, description="feed-forward neurons of a layer to keep")
    key_value_heads: PositiveInt | None = Field(
        default=None, description="key-value heads of a layer to keep, each with the query heads that share it"
    )


class FromTeacher(Section):
    layers: list[NonNegativeInt] = Field(min_length=1, description="teacher layers to keep, in order, from 0")
    width: Width | None = Field(
        default=None, description="narrow them: the weightiest channels, neurons and heads stay"
    )
    teacher: str | None = Field(default=None, description="which of several teachers; needed where there are several")


class InitConfig(Section):
    """Exactly one of the three."""

    from_teacher: FromTeacher | None = Field(default=None, description="copy layers of the teacher")
    model: ModelSource | None = Field(
        default=None, description="model id, directory, or package:NAME/DIRECTORY of an installed Python package"
    )
    config: dict[str, Any] | None = Field(default=None, description="a Transformers config (with model_type)")

    @model_validator(mode="after")
    def _exactly_one(self) -> InitConfig:
        given = [name for name in type(self).model_fields if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(
                f"exactly one of from_teacher, model and config says how the student starts; given: "
                f"{', '.join(given) or 'none'}"
            )
        if self.config is not None and not isinstance(self.config.get("model_type"), str):
            raise ValueError("config needs a model_type such as `llama`, or Transformers cannot tell the architecture")
        return self


class PeftSection(Section):
    """LoRA adapters on the student (needs `pip install distill-core[peft]`)."""

    r: PositiveInt = Field(default=8, description="rank of the adapters")
    alpha: PositiveFloat = Field(
        default=16.0, description="scale of the adapters; their output is multiplied by alpha / r"
    )
    dropout: float = Field(default=0.0, ge=0, lt=1, description="dropout on the adapters' input")
    target_modules: list[str] | Literal["all-linear"] = Field(
        default="all-linear", description="names of the modules that get adapters"
    )


class StudentConfig(Section):
    init: InitConfig = Field(description="what the student starts from")
    tokenizer: ModelSource | None = Field(
        default=None, description="tokenizer id or directory, as for a model; default: the model's own"
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        default="auto", description="of the weights; auto: float32 in training"
    )
    trust_remote_code: bool = Field(default=False, description="run Python code that comes with the model")
    peft: PeftSection | None = Field(default=None, description="train LoRA adapters instead of all weights")
