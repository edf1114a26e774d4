"""Options of ``lm-eval``; torch-free."""

from __future__ import annotations

from pydantic import Field, NonNegativeInt, PositiveInt

from distill_core.options import Options


class HarnessOptions(Options):
    """Options of ``lm-eval``."""

    tasks: list[str] = Field(min_length=1, description="names of harness tasks, or of those under include_path")
    include_path: str | None = Field(
        default=None, description="directory of task files (YAML); with JSON lines beside them no network is needed"
    )
    num_fewshot: NonNegativeInt | None = Field(
        default=None, description="examples before the question; default: the task's"
    )
    limit: PositiveInt | None = Field(default=None, description="the first so many questions of each task")
    batch_size: PositiveInt = Field(default=8, description="requests per forward pass; fixed and recorded")
    seed: NonNegativeInt = Field(default=1234, description="of few-shot examples and everything random in the harness")
    bootstrap: NonNegativeInt = Field(
        default=100_000, description="resamples of the harness's own standard errors, as `lm_eval` has it; 0: none"
    )
    chat_template: bool = Field(default=False, description="ask through the tokenizer's chat template")
    samples: NonNegativeInt = Field(default=20, description="answered questions of each task kept with their text")
