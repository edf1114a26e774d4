"""Options of the filters that ask a model, an encoder or a teacher. No torch import."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, PositiveFloat, PositiveInt, field_validator, model_validator

from distill_core.errors import DataError
from distill_core.options import ModelSource, Options, with_group
from distill_synthesis.filters.options import PartOptions


class ModelOptions(Options):
    """Options of whatever loads a model of its own."""

    model: ModelSource = Field(
        description="a directory, a hub id, or package:NAME/DIRECTORY inside an installed Python package"
    )
    trust_remote_code: bool = Field(default=False, description="run Python code that comes with the model")
    device: str | None = Field(default=None, description="where it runs, e.g. cpu or cuda:0; default: cuda if there")
    batch_records: PositiveInt = Field(default=32, description="records that are judged at a time")

    def files(self) -> list[str]:
        """What is read, if it is on this machine."""
        return [self.model]


class SemanticDedupOptions(ModelOptions, PartOptions):
    """Options of the filter ``semantic-dedup``."""

    threshold: float = Field(default=0.95, gt=-1, le=1, description="cosine similarity of near duplicates")
    pooling: Literal["mean", "first"] = Field(
        default="mean", description="how token states become one: their mean, or the first one ([CLS])"
    )
    length_tokens: PositiveInt = Field(default=256, description="tokens of a text that the encoder reads")

    @classmethod
    def example(cls, directory: Path) -> SemanticDedupOptions:
        return cls(model=saved_tiny_model(directory), length_tokens=64)


class PerplexityOptions(ModelOptions, PartOptions):
    """Options of ``perplexity``."""

    min: PositiveFloat | None = Field(default=None, description="smallest perplexity kept")
    max: PositiveFloat | None = Field(default=None, description="greatest perplexity kept")
    length_tokens: PositiveInt = Field(
        default=512, ge=2, description="longer texts are cut into windows of so many tokens, each judged by itself"
    )

    @model_validator(mode="after")
    def _bounded(self) -> PerplexityOptions:
        if self.min is None and self.max is None:
            raise ValueError("neither min nor max is given, so nothing would be dropped: give one of them, or both")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min {self.min:g} lies above max {self.max:g}: nothing can be in between")
        return self

    @classmethod
    def example(cls, directory: Path) -> PerplexityOptions:
        return cls(model=saved_tiny_model(directory), max=300, length_tokens=64)


class IfdOptions(ModelOptions):
    """Options of the filter ``ifd``."""

    min: float = Field(default=0.0, ge=0, description="smallest score kept")
    drop_above: PositiveFloat = Field(
        default=1.0, description="scores from here on are dropped: the prompt does not help with the answer"
    )
    length_tokens: PositiveInt = Field(default=512, ge=3, description="longer records: the answer's end is cut")

    @model_validator(mode="after")
    def _ordered(self) -> IfdOptions:
        if self.min >= self.drop_above:
            raise ValueError(f"min {self.min:g} is not below drop_above {self.drop_above:g}: nothing can be in between")
        return self

    @classmethod
    def example(cls, directory: Path) -> IfdOptions:
        return cls(model=saved_tiny_model(directory), length_tokens=64)


class JudgeOptions(PartOptions):
    """Options of ``judge``."""

    teacher: str | None = Field(default=None, description="which teacher of the run file judges; default: the first")
    rubric: str | None = Field(
        default=None,
        description="Jinja file of what the teacher is asked, with the variables text, prompt, answer, record, low and "
        "high; default: how clear, correct and useful the text is",
    )
    low: float = Field(default=1, description="worst score of the scale")
    high: float = Field(default=5, description="best score of the scale")
    min_score: float = Field(default=4, description="smallest score kept")
    score_pattern: str = Field(
        default=r"\s*(?:Score:\s*)?(?P<score>-?\d+(?:\.\d+)?)(?:\s*/\s*\d+)?\.?\s*",
        description="regular expression of the teacher's whole answer; its group `score` is the score",
    )
    unparsable: Literal["drop", "keep"] = Field(
        default="drop", description="records whose judgement cannot be read: a reason of its own, or kept"
    )
    chat: bool = Field(default=False, description="ask by a chat turn instead of a plain prompt")
    max_new_tokens: PositiveInt = Field(default=16, description="tokens of a judgement")
    batch_records: PositiveInt = Field(default=64, description="records that are judged at a time")

    @field_validator("score_pattern")
    @classmethod
    def _has_score(cls, pattern: str) -> str:
        return with_group(pattern, "score")

    @model_validator(mode="after")
    def _scale(self) -> JudgeOptions:
        if not self.low < self.high:
            raise ValueError(f"the scale from low {self.low:g} to high {self.high:g} is empty: low must be smaller")
        if not self.low < self.min_score <= self.high:
            raise ValueError(
                f"min_score {self.min_score:g} must lie above low {self.low:g} (or nothing is dropped) and be at most "
                f"high {self.high:g}"
            )
        return self

    def files(self) -> list[str]:
        """What is read."""
        return [] if self.rubric is None else [self.rubric]

    def problems(self) -> list[str]:
        """A rubric that is not there, is no Jinja, or never shows the record."""
        from distill_synthesis.filters.rubric import Rubric

        try:
            Rubric(None if self.rubric is None else Path(self.rubric).expanduser())
        except DataError as error:
            return [f"rubric: {error}"]
        return []


def saved_tiny_model(directory: Path) -> str:
    """A random model with its tokenizer, for the conformance kit."""
    from distill_core.testing.tiny_model import tiny_model, tiny_tokenizer

    path = directory / "tiny-model"
    if not path.is_dir():
        tokenizer = tiny_tokenizer()
        tiny_model(len(tokenizer)).save_pretrained(path)
        tokenizer.save_pretrained(path)
    return str(path)
